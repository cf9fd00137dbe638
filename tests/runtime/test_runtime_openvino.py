"""OpenVINO's runner computes in fp32 what a graph leaves in float."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from smallnet import CONTRACT, constant, small_bundle

from segc.core.contract import CONTRACT_KEY
from segc.runtime.backends.openvino_backend import OpenVinoRunner

_LOAD = (
    "import sys; from pathlib import Path; from segc.runtime.backends.openvino_backend import OpenVinoRunner; "
    "OpenVinoRunner(Path(sys.argv[1]), threads=1).close()"
)


def wide_depthwise_model() -> ModelProto:
    """ExtremeC3Net's widest depthwise convolution between two plain ones: 8 channels, 1x15, on a map of 112x112."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "stem"], ["map"]),
        helper.make_node("Conv", ["map", "wide"], ["blurred"], group=8, pads=[0, 7, 0, 7]),
        helper.make_node("Conv", ["blurred", "last"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["class_map"], to=TensorProto.UINT8),
    ]
    shapes = {"stem": (8, 3, 1, 1), "wide": (8, 1, 1, 15), "last": (3, 8, 1, 1)}
    weights = [constant(name, random.normal(size=shape)) for name, shape in shapes.items()]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 112, 112, 3])
    output = helper.make_tensor_value_info("class_map", TensorProto.UINT8, [1, 112, 112])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [output], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    contract = CONTRACT.model_copy(update={"height": 112, "width": 112})
    helper.set_model_props(model, {CONTRACT_KEY: contract.model_dump_json()})
    return model


def test_the_runner_asks_for_fp32(tmp_path: Path) -> None:
    runner = OpenVinoRunner(small_bundle(tmp_path / "bundle") / "model.onnx", threads=1)
    assert runner._model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_a_wide_depthwise_convolution_is_compiled(tmp_path: Path) -> None:
    """In bf16, which OpenVINO takes where the CPU has it, compiling this graph never ends: hence a process that can be ended."""
    graph = tmp_path / "model.onnx"
    onnx.save(wide_depthwise_model(), graph)
    subprocess.run([sys.executable, "-c", _LOAD, str(graph)], check=True, timeout=60)


_TWO = """
import signal, sys
from pathlib import Path
from segc.runtime.backends.openvino_backend import OpenVinoRunner
first, second = (OpenVinoRunner(Path(sys.argv[1]), threads=1) for _ in range(2))
first.close()
del first
second.close()
del second
signal.raise_signal(signal.SIGINT)
"""


def test_an_interrupt_after_two_runners_is_an_interrupt(tmp_path: Path) -> None:
    graph = small_bundle(tmp_path / "bundle") / "model.onnx"
    process = subprocess.run([sys.executable, "-c", _TWO, str(graph)], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in process.stderr, process.returncode
