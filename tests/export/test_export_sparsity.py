"""The 2:4 check of ONNX graphs: the axis of each operator, Q/DQ and fp16 forms, offending nodes by name."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper
from smallnet import constant, small_model

from segc.compress.cast import FP16, cast_graph
from segc.compress.placement import place
from segc.compress.quantize import quantize_graph
from segc.export.sparsity import weight_patterns


def halved(values: np.ndarray, axis: int) -> np.ndarray:
    """Every second of four neighbours zero."""
    sparse = np.moveaxis(values.copy(), axis, -1)
    sparse[..., 1::2] = 0
    return np.moveaxis(sparse, -1, axis)


def sparse_model(names: tuple[str, ...] = ("inner_w", "down_w", "mix_w", "classify_w")) -> ModelProto:
    model = small_model()
    for item in model.graph.initializer:
        if item.name in names:
            item.CopyFrom(constant(item.name, halved(numpy_helper.to_array(item), 1)))
    return model


def dense_nodes(model: ModelProto) -> list[str]:
    return [pattern.node for pattern in weight_patterns(model) if pattern.dense]


def test_every_precision_keeps_the_pattern() -> None:
    model = sparse_model()
    ranges = {name: 4.0 for node in model.graph.node for name in node.output} | {"scaled": 2.0}
    int8 = quantize_graph(model, ranges, place(model))
    for graph in (model, int8, cast_graph(model, FP16, []), cast_graph(int8, FP16, [])):
        reasons = {pattern.node: pattern.reason for pattern in weight_patterns(graph)}
        assert reasons == {"stem": "its 3 input channels are not divisible by 4", "inner": "", "down": "", "mix": "", "classify": ""}
        assert dense_nodes(graph) == []


def test_offending_nodes_are_named() -> None:
    model = sparse_model(("inner_w", "down_w"))
    assert dense_nodes(model) == ["mix", "classify"] and len(dense_nodes(small_model())) == 4
    found = {pattern.node: pattern for pattern in weight_patterns(model)}
    assert found["mix"].reason == "288 of 288 groups of four have more than two values" and found["mix"].weight == "mix_w"
    values = halved(np.ones((8, 16, 3, 3)), 1)
    values[3, 5, 1, 1] = 1
    next(item for item in model.graph.initializer if item.name == "mix_w").CopyFrom(constant("mix_w", values))
    assert {pattern.node: pattern.reason for pattern in weight_patterns(model)}["mix"].startswith("1 of 288")


@pytest.mark.parametrize(
    ("op", "options", "shape", "axis"),
    [("Gemm", {}, (8, 6), 0), ("Gemm", {"transB": 1}, (6, 8), 1), ("MatMul", {}, (8, 6), 0), ("MatMul", {}, (3, 8, 6), 1)],
)
def test_the_input_channels_of_products(op: str, options: dict[str, int], shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    for weights, dense in ((halved(values, axis), []), (halved(values, len(shape) - 1 if axis != len(shape) - 1 else 0), ["product"])):
        nodes = [helper.make_node(op, ["x", "w"], ["y"], "product", **options)]
        ends = [helper.make_tensor_value_info(name, 1, None) for name in "xy"]
        model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [constant("w", weights)]))
        assert dense_nodes(model) == dense


def test_layers_that_cannot_be_sparse() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "grouped", group=2),
        helper.make_node("ConvTranspose", ["a", "w"], ["b"], "transposed"),
        helper.make_node("Conv", ["b", "made"], ["y"], "no constant"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "made", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:2], ends[2:], [constant("w", np.ones((8, 4, 1, 1)))]))
    assert [(pattern.node, pattern.dense) for pattern in weight_patterns(model)] == [("grouped", False), ("transposed", False)]
