"""TensorRT-RTX parses and builds what the export makes; what it refuses is named, and a crash of its process is an error like others."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from smallnet import small_model

from segc.core.errors import CheckFailed, UserError
from segc.export.engine import build as build_module
from segc.export.engine import rtx
from segc.export.engine.worker import Job
from segc.runtime import runner

needs_rtx = pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")


def one_node(op: str, domain: str = "", **attributes: object) -> ModelProto:
    shape = [1, 4, 8, 8]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], "the_node", domain=domain, **attributes)], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@needs_rtx
def test_a_build_tells_what_it_made(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "model.onnx")
    found = rtx.build(tmp_path / "model.onnx", "8.9")
    assert found.layers >= len(small_model().graph.node) and found.engine_bytes > 10_000 and found.seconds > 0


@needs_rtx
@pytest.mark.parametrize(("op", "domain"), [("NoSuchOp", "segc"), ("StringNormalizer", "")])
def test_a_refused_node_is_named(op: str, domain: str) -> None:
    with pytest.raises(CheckFailed, match=rf"refuses .* 1 errors: {op} the_node"):
        rtx.build(one_node(op, domain))


@needs_rtx
def test_a_pass_of_the_parser_is_not_enough() -> None:
    """uint8 values are read by a Cast only: the parser takes this graph, the builder does not."""
    model = small_model()
    del model.graph.node[0]
    model.graph.node[0].input[0] = "images"
    model.graph.value_info.clear()
    with pytest.raises(CheckFailed):
        rtx.build(model)


@needs_rtx
def test_time_runs_out() -> None:
    with pytest.raises(CheckFailed, match=r"within 0\.01 s"):
        rtx.build(one_node("Relu"), timeout=0.01)


def test_a_process_that_dies_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho terminate called >&2\nkill -ABRT $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(build_module.sys, "executable", str(dying))
    with pytest.raises(CheckFailed, match=r"code -6\): terminate called"):
        build_module.run_job(Job("tensorrt", "m.onnx", "m.engine", {}), "TensorRT", 10)


@needs_rtx
def test_what_cannot_be_tried_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"8\.7 is not one of them"):
        rtx.build(one_node("Relu"), "8.7")
    with pytest.raises(UserError, match="does not exist"):
        rtx.build(tmp_path / "absent.onnx")


def test_the_wheel_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.Backend, "installed", False)
    with pytest.raises(UserError, match=r"segc\[rtx\]"):
        rtx.build(one_node("Relu"))
