"""The ONNX bodies of the scans in three runtimes, against the definition in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor

from segc.core.errors import UserError
from segc.export.engine import rtx
from segc.ops import reference
from segc.ops.onnx_functions.body import Body
from segc.ops.onnx_functions.library import MOST_STEPS, add_functions, scan_variant
from segc.ops.onnx_functions.scan import Form, softplus
from tests.ops.onnx_cases import RUNTIMES, node_model, onnx_runtime, values_of
from tests.ops.scan_inputs import Case, assert_near, cases, in_double, inputs

FORMS: list[Form] = ["sums", "tree"]
BASE = Case(batch=2, groups=2, members=3, states=2, length=77, dtype=torch.float32)


def attributes(case: Case) -> dict[str, int]:
    names = ("delta_softplus",) if case.height else ("delta_softplus", "reverse")
    return {name: int(flag) for name, flag in zip(names, case.flags, strict=True)}


def op_type(case: Case) -> str:
    return "CrossSelectiveScan" if case.height else "SelectiveScan"


def expected(case: Case, tensors: list[Tensor | None]) -> Tensor:
    define: Any = reference.cross_selective_scan if case.height else reference.selective_scan
    return define(*in_double(tensors), *case.flags)


def compare(case: Case, tensors: list[Tensor | None], runtime: str = "ONNX Runtime", **how: Any) -> None:
    values = values_of(op_type(case), tensors)
    found = RUNTIMES[runtime](node_model(op_type(case), values, attributes(case), **how), values)[0]
    assert found.dtype == values["u"].dtype
    assert_near([torch.from_numpy(found)], [expected(case, tensors)], case.dtype)


@settings(max_examples=20, deadline=None)
@given(
    case=st.one_of(cases(most=1100), cases(cross=True)),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    form=st.sampled_from(FORMS),
    dynamic=st.booleans(),
    opset=st.sampled_from([17, 18, 20]),
)
def test_onnx_runtime_gives_the_definition(case: Case, dtype: torch.dtype, form: Form, dynamic: bool, opset: int) -> None:
    case = replace(case, dtype=dtype)
    compare(case, inputs(case), form=form, dynamic=dynamic, opset=opset)


@pytest.mark.parametrize("runtime", ["onnx.reference", "OpenVINO"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "case",
    [
        BASE,
        replace(BASE, states=1, length=64, reverse=True),
        replace(BASE, groups=4, members=2, length=9, height=5, batch=1),
        replace(BASE, groups=4, members=2, length=3, height=32, states=1),
    ],
)
def test_other_runtimes_give_the_definition(case: Case, form: Form, runtime: str) -> None:
    compare(case, inputs(case), runtime, form=form)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_one_body_serves_nodes_whose_flags_differ(runtime: str) -> None:
    tensors = inputs(replace(BASE, softplus=False))
    flags = [(False, False), (True, True)]
    own = [{"delta_softplus": int(soft), "reverse": int(back)} for soft, back in flags]
    values = values_of("SelectiveScan", tensors)
    model = node_model("SelectiveScan", values, own)  # type: ignore[arg-type]
    found = [torch.from_numpy(item) for item in RUNTIMES[runtime](model, values)]
    assert len(model.functions) == 1
    assert_near(found, [reference.selective_scan(*in_double(tensors), *pair) for pair in flags], torch.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [replace(BASE, length=length, states=1) for length in (1024, 1025)])
@pytest.mark.parametrize("rate", [-1000.0, -30.0, 0.0, 0.02])
def test_any_decay_is_safe(form: Form, case: Case, rate: float) -> None:
    """``delta A`` from -1000 to 20 over the sequence: forgotten at once, kept for ever, growing a billionfold."""
    tensors = inputs(replace(case, softplus=False, weights=False))
    tensors[1], tensors[2] = torch.ones_like(tensors[1]), torch.full_like(tensors[2], rate)  # type: ignore[arg-type]
    compare(replace(case, softplus=False), tensors, form=form)


# onnx.reference runs both branches of an If through numpy, which warns of what the branch not taken gives.
@pytest.mark.filterwarnings("ignore::RuntimeWarning:onnx.reference", "ignore::RuntimeWarning:numpy._core")
@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("case", [replace(BASE, groups=4, members=2, length=5, height=16, states=1), replace(BASE, states=1, reverse=True)])
def test_chunks_that_forget_too_much_for_sums(case: Case, runtime: str) -> None:
    tensors = inputs(case)
    tensors[2] = 200 * tensors[2]  # type: ignore[operator]
    compare(case, tensors, runtime)


@pytest.mark.parametrize("size", [1e6, 1e12, 1e30])
def test_numbers_too_large_for_sums(size: float) -> None:
    """Divided by a decay of e^-45 they would overflow."""
    case = replace(BASE, states=1, softplus=False, weights=False)
    tensors = inputs(case)
    tensors[0], tensors[1], tensors[2] = size * tensors[0], torch.ones_like(tensors[1]), torch.full_like(tensors[2], -2.8)  # type: ignore
    compare(case, tensors)


def test_steps_of_very_different_decay() -> None:
    """A step that forgets all between steps that forget nothing: no sum of logarithms may lose the small ones."""
    tensors = inputs(replace(BASE, softplus=False, weights=False, length=512))
    delta = torch.full_like(tensors[1], 1e-3)  # type: ignore[arg-type]
    delta[..., ::7] = 1000.0
    tensors[1], tensors[2] = delta, torch.full_like(tensors[2], -1.0)  # type: ignore[arg-type]
    compare(replace(BASE, softplus=False), tensors)


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_to_later_steps_of_its_channel_only(states: int, wrong: float) -> None:
    tensors = inputs(replace(BASE, states=states))
    tensors[0][1, 2, 30] = wrong  # type: ignore[index]
    values = values_of("SelectiveScan", tensors)
    found = onnx_runtime(node_model("SelectiveScan", values, attributes(BASE)), values)[0]
    spread = np.zeros(found.shape, bool)
    spread[1, 2, 30:] = True
    assert (np.isfinite(found) != spread).all()


@pytest.mark.slow
@pytest.mark.parametrize("length", [16_384, 100_003, 262_144])
@pytest.mark.parametrize("dynamic", [False, True])
def test_long_sequences(length: int, dynamic: bool) -> None:
    case = Case(batch=1, groups=1, members=2, states=1, length=length, dtype=torch.float32, reverse=True)
    compare(case, inputs(case), dynamic=dynamic)


def test_softplus_keeps_small_results() -> None:
    body = Body()
    body.nodes.append(helper.make_node("Identity", [softplus(body, "x")], ["y"]))
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(body.nodes, "softplus", shape[:1], shape[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.linspace(-80, 80, 20_001, dtype=np.float32)
    wanted = np.logaddexp(0, x.astype(np.float64))
    assert np.abs(onnx_runtime(model, {"x": x})[0] / wanted - 1).max() < 1e-6


def test_a_sequence_that_is_too_long_is_refused() -> None:
    node = helper.make_node("SelectiveScan", ["u", "delta", "A"], ["y"], domain="segc")
    with pytest.raises(UserError, match="expected at most 1048576"):
        scan_variant([node], {"u": [1, 1, MOST_STEPS + 1]}, "sums")


def test_an_unknown_operator_is_refused() -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("Scam", [], ["y"], domain="segc")], "g", [], []))
    with pytest.raises(UserError, match=r"unknown operator segc\.Scam; expected one of SelectiveScan"):
        add_functions(model)


def test_an_opset_that_is_too_old_is_refused() -> None:
    with pytest.raises(UserError, match=r"opset 16 is too old for segc\.SelectiveScan"):
        node_model("SelectiveScan", values_of("SelectiveScan", inputs(BASE)), attributes(BASE), opset=16)


def test_a_model_without_such_nodes_is_left_alone() -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    before = onnx.ModelProto.FromString(model.SerializeToString())
    assert add_functions(model) == before


TARGETS = ["8.6", *(pytest.param(name, marks=pytest.mark.slow) for name in ("8.9", "12.0"))]


@pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_tensorrt_builds_the_body(form: Form, target: str) -> None:
    case = replace(BASE, groups=4, length=16, height=16, dtype=torch.float16)
    model = node_model("CrossSelectiveScan", values_of("CrossSelectiveScan", inputs(case)), attributes(case), form=form, opset=20)
    assert rtx.build(model, target).layers > len(model.functions[0].node) / 2
