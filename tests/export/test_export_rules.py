"""Each TensorRT rule on a graph that breaks just that rule; clean graphs break none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segc.export.tensorrt_rules import check_qdq

SHAPES = {"Conv": (4, 3, 1, 1), "ConvTranspose": (3, 4, 1, 1), "Gemm": (3, 4), "MatMul": (3, 4)}
AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


def make(nodes: list[NodeProto], constants: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    items = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "computed")]
    given_outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_model(helper.make_graph(nodes, "g", given, given_outputs, items))


def graph(op: str = "Conv", axis: int | None = None, weight_q: bool = True, **changes: np.ndarray) -> ModelProto:
    """x -> Q -> DQ -> op(DQ(Q(weight))) -> y; ``changes`` replaces constants; ``weight_q`` False stores the weight as int8."""
    transposed = op == "GemmT"
    op = "Gemm" if transposed else op
    shape = SHAPES[op][::-1] if transposed else SHAPES[op]
    axis = (0 if transposed else AXES[op]) if axis is None else axis
    channels = shape[axis]
    constants = {
        "s": np.float32(0.1), "z": np.int8(0),
        "w": np.ones(shape, np.float32 if weight_q else np.int8),
        "ws": np.full(channels, 0.1, np.float32), "wz": np.zeros(channels, np.int8),
    } | changes  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "act_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "act_dq"),
        *([helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "weight_q", axis=axis)] if weight_q else []),
        helper.make_node("DequantizeLinear", ["wq" if weight_q else "w", "ws", "wz"], ["wd"], "weight_dq", axis=axis),
        helper.make_node(op, ["xd", "wd"], ["y"], "op", **({"transB": 1} if transposed else {})),
    ]
    return make(nodes, constants)


def rules(model: ModelProto) -> set[tuple[str, str]]:
    return {(item.node, item.rule) for item in check_qdq(model)}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "GemmT", "MatMul"])
@pytest.mark.parametrize("weight_q", [True, False])
def test_clean_graphs(op: str, weight_q: bool) -> None:
    assert rules(graph(op, weight_q=weight_q)) == set()


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "GemmT", "MatMul"])
def test_scales_on_the_wrong_axis(op: str) -> None:
    wrong = 1 - (0 if op == "GemmT" else AXES[op])
    found = check_qdq(graph(op, axis=wrong, weight_q=False))
    assert [(item.node, item.rule) for item in found] == [("weight_dq", "channel-axis")]
    assert f"axis {wrong}" in found[0].detail and f"axis {1 - wrong}" in found[0].detail and "op" in found[0].detail


def test_a_negative_axis_is_counted_from_the_end() -> None:
    model = graph("MatMul")
    for node in model.graph.node:
        for item in node.attribute:
            if item.name == "axis":
                item.i = -1
    assert rules(model) == set()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"z": np.int8(3)}, "symmetric"),
        ({"z": np.uint8(0)}, "int8"),
        ({"s": np.float32(0)}, "positive-scale"),
        ({"s": np.float32(-1)}, "positive-scale"),
        ({"s": np.float32(np.nan)}, "positive-scale"),
        ({"s": np.float32(np.inf)}, "positive-scale"),
        ({"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.int8)}, "per-tensor-activation"),
    ],
)
def test_activations(changes: dict[str, np.ndarray], rule: str) -> None:
    assert rules(graph(**changes)) == {("act_q", rule), ("act_dq", rule)}


def test_a_computed_scale() -> None:
    model = graph(weight_q=False)
    model.graph.node[1].input[1] = "computed"
    assert rules(model) == {("act_dq", "constant-scale")}


def test_a_scale_from_a_constant_node_is_constant() -> None:
    model = graph()
    scale = next(item for item in model.graph.initializer if item.name == "s")
    node = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(numpy_helper.to_array(scale)))
    model.graph.initializer.remove(scale)
    model.graph.node.insert(0, node)
    assert rules(model) == set()


def test_an_int32_bias() -> None:
    model = graph()
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (("b", np.ones(4, np.int32)), ("bs", np.full(4, 0.1, np.float32)), ("bz", np.zeros(4, np.int32)))
    )
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], "bias_dq", axis=0))
    model.graph.node[-1].input.append("bd")
    found = check_qdq(model)
    assert {(item.node, item.rule) for item in found} == {("bias_dq", "int8")} and "float biases" in found[0].detail


def test_types_without_a_zero_point() -> None:
    """A DequantizeLinear has the type of its input; a QuantizeLinear alone makes uint8."""
    stored = graph(weight_q=False)
    del stored.graph.node[2].input[2]
    assert rules(stored) == set()
    unsigned = graph()
    for node in unsigned.graph.node[:2]:
        del node.input[2]
    assert rules(unsigned) == {("act_q", "int8"), ("act_dq", "int8")}
    unsigned.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert rules(unsigned) == set()


def test_quantize_without_dequantize() -> None:
    constants = {"s": np.float32(0.1), "z": np.int8(0)}
    lone = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q")
    assert rules(make([lone], constants, ("q",))) == {("q", "pair")}
    assert rules(make([lone], constants, ())) == {("q", "pair")}
    to_relu = make([lone, helper.make_node("Relu", ["q"], ["y"], "relu")], constants)
    assert rules(to_relu) == {("q", "pair")} and "Relu" in check_qdq(to_relu)[0].detail


def test_dequantize_without_quantize() -> None:
    constants = {"s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], "cast", to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq"),
    ]
    assert rules(make(nodes, constants)) == {("dq", "pair")}
    assert "graph input" in check_qdq(make([helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], "dq")], constants))[0].detail
