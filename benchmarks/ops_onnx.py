"""The ONNX bodies of the operators in ONNX Runtime and OpenVINO against our compiled CPU operators; errors, memory, TensorRT-RTX builds.

    python -m benchmarks.ops_onnx

Each face in a process of its own (runtimes in one process slow each other down), medians, two threads, batch 1, float32; random inputs
(time does not depend on their values). Errors are the largest difference from the float64 definition over its largest value. Memory is
the peak of a process of its own, less what it had before the session was made. Results: benchmarks/results/ops_onnx.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from segc.core.errors import CheckFailed
from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.export.engine import rtx
from segc.export.segc_ops import add_functions, inlined
from segc.ops import reference
from segc.ops.attention import neighborhood_attention_2d
from segc.ops.onnx_functions.scan import Form
from segc.ops.onnx_functions.signature import DOMAIN, DOMAIN_VERSION, PLUGIN_ATTRIBUTES, SIGNATURES
from segc.ops.scan import cross_selective_scan, selective_scan

RESULTS = Path(__file__).parent / "results" / "ops_onnx.json"
THREADS, ROUNDS, OPSET = 2, 21, 20
# Map size, heads, channels of a head, kernel size: SegMAN-T at 512x512.
STAGES = {
    "attention, stage 1": (128, 1, 32, 11),
    "attention, stage 2": (64, 2, 32, 9),
    "attention, stage 3": (32, 4, 36, 9),
    "attention, stage 4": (16, 8, 24, 7),
}
# Channels of all four directions, side of the map, d_state: SegMAN-T's first stage, and VMamba-like.
SCANS = {"scan, 128 x 16384": (128, 128, 1), "cross scan, 32 x 128 x 128": (128, 128, 1), "scan, 128 x 4096, d_state 16": (128, 64, 16)}
LARGE = {"attention, 1024x1024 image": (256, 1, 32, 11)}
WEIGHTS = {"A", "D", "delta_bias", "rpb"}
Inputs = dict[str, Any]  # tensors by name


def main() -> None:
    """Measure every operator, print and store the rows."""
    if sys.argv[1:2] == ["--memory"]:
        print(grown_by(Path(sys.argv[2])))
        return
    torch.set_num_threads(THREADS)
    if sys.argv[1:2] == ["--time"]:
        print(median_seconds(FACES[sys.argv[3]](sys.argv[2])))
        return
    rows: list[Row] = []
    for name in [*SCANS, *STAGES]:
        rows += told([*latency(name), *errors(name), *builds(name)])
    for name in [*SCANS, "attention, stage 1", *LARGE]:
        rows += told([memory(name, dynamic) for dynamic in (False, True)])
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})


def told(rows: list[Row]) -> list[Row]:
    """The rows, printed."""
    for row in rows:
        where = " ".join(f"{value}" for key, value in row.conditions.items() if key not in ("operator", "threads"))
        print(f"{row.conditions['operator']:30s} {row.metric:30s} {row.value:12.4g} {row.unit:6s} {where}", flush=True)
    return rows


def make(name: str) -> tuple[str, Inputs, dict[str, Any]]:
    """Operator, inputs and attributes of a case."""
    torch.manual_seed(0)
    if name in SCANS:
        return make_scan(name)
    size, heads, depth, kernel = {**STAGES, **LARGE}[name]
    maps = {key: torch.randn(1, size, size, heads, depth) for key in "qkv"}
    window = {"kernel_size": [kernel] * 2, "dilation": [1, 1], "scale": depth**-0.5}
    return "NeighborhoodAttention2D", {**maps, "rpb": torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1)}, window


def make_scan(name: str) -> tuple[str, Inputs, dict[str, Any]]:
    channels, side, states = SCANS[name]
    cross = name.startswith("cross")
    space = (side, side) if cross else (side * side,)
    inputs = {
        "u": torch.randn(1, channels // 4 if cross else channels, *space),
        "delta": torch.randn(1, channels, *space) - 3,
        "A": -torch.arange(1.0, states + 1).expand(channels, states).contiguous(),
        "B": torch.randn(1, 4, states, *space),
        "C": torch.randn(1, 4, states, *space),
        "D": torch.ones(channels),
        "delta_bias": torch.zeros(channels),
    }
    flags = {"delta_softplus": 1} if cross else {"delta_softplus": 1, "reverse": 0}
    return "CrossSelectiveScan" if cross else "SelectiveScan", inputs, flags


def graph(name: str, form: Form = "sums", dynamic: bool = False, dtype: torch.dtype = torch.float32) -> tuple[ModelProto, Any]:
    """One node with its body, weights as initializers as in an exported network; and what to feed."""
    op_type, tensors, attributes = make(name)
    values = {key: (tensor if key in WEIGHTS else tensor.to(dtype)).numpy() for key, tensor in tensors.items()}
    fed = {key: value for key, value in values.items() if key not in WEIGHTS}
    infos = [_info(key, value, dynamic) for key, value in fed.items()]
    output = _info(SIGNATURES[op_type].output, next(iter(values.values())), dynamic)
    node = helper.make_node(op_type, list(values), [output.name], domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES)
    weights = [numpy_helper.from_array(value, key) for key, value in values.items() if key in WEIGHTS]
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(helper.make_graph([node], name, infos, [output], weights), opset_imports=imports, ir_version=10)
    return add_functions(model, form), fed


def _info(name: str, value: NDArray[Any], dynamic: bool) -> onnx.ValueInfoProto:
    """Dynamic: everything that is a size of the map; heads, channels and states stay known."""
    sizes = [f"{name}_{axis}" if dynamic and size >= 16 and axis else size for axis, size in enumerate(value.shape)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), sizes)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_runtime_run(model: ModelProto, fed: Any) -> Callable[[], Any]:
    """A run of the model in ONNX Runtime."""
    runner = session(model)
    return lambda: runner.run(None, fed)[0]


def openvino_run(model: ModelProto, fed: Any) -> Callable[[], Any]:
    """A run of the inlined model in OpenVINO."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(inlined(model).SerializeToString()), "CPU", settings).create_infer_request()
    return lambda: request.infer(fed, share_inputs=True)[0]


def compiled_run(name: str, tensors: Inputs) -> Callable[[], Tensor]:
    """A run of our own operator."""
    op_type, _, attributes = make(name)
    if op_type == "SelectiveScan":
        return lambda: selective_scan(**tensors, delta_softplus=True)
    if op_type == "CrossSelectiveScan":
        return lambda: cross_selective_scan(**tensors, delta_softplus=True)
    return lambda: neighborhood_attention_2d(**tensors, kernel_size=attributes["kernel_size"], scale=attributes["scale"])


def definition(name: str, tensors: Inputs) -> Tensor:
    """The float64 definition."""
    op_type, _, attributes = make(name)
    doubled = {key: tensor.double() for key, tensor in tensors.items()}
    if op_type == "SelectiveScan":
        return reference.selective_scan(**doubled, delta_softplus=True)
    if op_type == "CrossSelectiveScan":
        return reference.cross_selective_scan(**doubled, delta_softplus=True)
    return reference.neighborhood_attention_2d(**doubled, kernel_size=tuple(attributes["kernel_size"]), scale=attributes["scale"])


def latency(name: str) -> list[Row]:
    """Median times of every face, and their ratios to the compiled operator."""
    faces = [face for face in FACES if name in SCANS or not face.endswith("tree")]
    times = {face: float(_itself("--time", name, face)) for face in faces}
    conditions = {"operator": name, "threads": THREADS, "dtype": "float32"}
    rows = []
    for face, seconds in times.items():
        told = {**conditions, "face": face}
        rows.append(Row(metric="latency_p50", value=1e3 * seconds, unit="ms", n=ROUNDS, conditions=told))
        ratio = seconds / times["compiled operator"]
        rows.append(Row(metric="time / compiled operator", value=ratio, unit="ratio", n=ROUNDS, conditions=told))
    return rows


FACES: dict[str, Callable[[str], Callable[[], Any]]] = {
    "compiled operator": lambda name: compiled_run(name, make(name)[1]),
    "ONNX Runtime": lambda name: onnx_runtime_run(*graph(name)),
    "ONNX Runtime, dynamic": lambda name: onnx_runtime_run(*graph(name, dynamic=True)),
    "OpenVINO": lambda name: openvino_run(*graph(name)),
    "ONNX Runtime, tree": lambda name: onnx_runtime_run(*graph(name, "tree")),
}


def median_seconds(run: Callable[[], Any]) -> float:
    """Median of ``ROUNDS`` calls after three that do not count."""
    times = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def _itself(*arguments: str) -> str:
    """What this script prints with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ops_onnx", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def forms(name: str) -> tuple[Form, ...]:
    """The bodies there are."""
    return ("sums", "tree") if name in SCANS else ("sums",)


def errors(name: str) -> list[Row]:
    """Relative errors of the bodies in each runtime and type, for the inputs as each type holds them."""
    rows = []
    for dtype in (torch.float32, torch.float16):
        tensors = {key: (tensor if key in WEIGHTS else tensor.to(dtype)) for key, tensor in make(name)[1].items()}
        wanted = definition(name, tensors)
        for form in forms(name):
            model, fed = graph(name, form, dtype=dtype)
            found = {"ONNX Runtime": onnx_runtime_run(model, fed)(), "OpenVINO": openvino_run(model, fed)()}
            for runtime, y in found.items():
                worst = float((torch.from_numpy(np.asarray(y)).double() - wanted).abs().max() / wanted.abs().max())
                told = {"operator": name, "runtime": runtime, "dtype": str(dtype).removeprefix("torch.")}
                rows.append(Row(metric=f"error, {form}" if name in SCANS else "error", value=worst, unit="ratio", n=1, conditions=told))
    return rows


def builds(name: str) -> list[Row]:
    """Layers and seconds of TensorRT-RTX builds, float16."""
    if not rtx.installed():
        return []
    rows = []
    for form in forms(name):
        told = {"operator": name, "target": "8.6", "dtype": "float16", **({"form": form} if name in SCANS else {})}
        try:
            found = rtx.build(graph(name, form, dtype=torch.float16)[0], told["target"])
        except CheckFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows += [
            Row(metric="TensorRT-RTX layers", value=found.layers, unit="layers", n=1, conditions=told),
            Row(metric="TensorRT-RTX parse and build", value=found.seconds, unit="s", n=1, conditions=told),
            Row(metric="TensorRT-RTX engine", value=found.engine_bytes / 2**20, unit="MiB", n=1, conditions=told),
        ]
    return rows


def memory(name: str, dynamic: bool) -> Row:
    """MiB by which a process grows from making a session and running it twice."""
    model, fed = graph(name, dynamic=dynamic)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        np.savez(Path(folder) / "fed.npz", **fed)
        grown = _itself("--memory", folder)
    told = {"operator": name, "runtime": "ONNX Runtime", "shapes": "dynamic" if dynamic else "static", "threads": THREADS}
    return Row(metric="peak memory", value=float(grown), unit="MiB", n=1, conditions=told)


def grown_by(folder: Path) -> float:
    """What ``memory`` measures, in the process of its own."""
    fed = dict(np.load(folder / "fed.npz"))
    content = onnx.load(folder / "model.onnx")
    before = peak()
    runner = session(content)
    for _ in range(2):
        runner.run(None, fed)
    return peak() - before


def peak() -> float:
    """MiB this process has had at most. ru_maxrss would count what its parent had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
