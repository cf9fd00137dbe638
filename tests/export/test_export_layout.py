"""Rewrites of what moves data: the same values out, fewer or cheaper nodes; where the values would differ, nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segc.export.layout import drop_idle_resizes, fold_image_scale, pool_globally, tokens_as_maps

RANDOM = np.random.default_rng(0)
MAP = [2, 6, 4, 5]


def graph(nodes: list[NodeProto], shape: list[int], **constants: Any) -> ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: ModelProto) -> np.ndarray:
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)})[0]


def rewritten(model: ModelProto, rewrite: Callable[[ModelProto], int]) -> tuple[int, Counter[str]]:
    """(what the rewrite counted, ops of the new graph); the outputs are compared."""
    copy = ModelProto()
    copy.CopyFrom(model)
    count = rewrite(copy)
    np.testing.assert_allclose(run(copy), run(model), rtol=1e-5, atol=1e-5)
    used = {name for node in copy.graph.node for name in node.input}
    assert {item.name for item in copy.graph.initializer} <= used
    return count, Counter(node.op_type for node in copy.graph.node)


def resize(size: list[int], **attributes: Any) -> ModelProto:
    nodes = [helper.make_node("Resize", ["x", "", "", "size"], ["up"], "resize", **attributes), helper.make_node("Relu", ["up"], ["y"])]
    return graph(nodes, MAP, size=np.array(size, np.int64))


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
def test_a_resize_to_the_same_size_goes(mode: str, interpolation: str) -> None:
    count, ops = rewritten(resize(MAP, mode=interpolation, coordinate_transformation_mode=mode), drop_idle_resizes)
    assert count == 1 and not ops["Resize"]


def test_a_resize_to_another_size_stays() -> None:
    count, ops = rewritten(resize([2, 6, 8, 5], mode="linear"), drop_idle_resizes)
    assert count == 0 and ops["Resize"] == 1


def to_map(perm: list[int], channels: int = 6) -> ModelProto:
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], "t", perm=perm),
        helper.make_node("Reshape", ["moved", "size"], ["map"], "r"),
        helper.make_node("Conv", ["map", "w"], ["y"], "c"),
    ]
    return graph(nodes, [2, 20, 6], size=np.array([2, channels, 4, 120 // channels // 4], np.int64), w=weight(3, channels))


def weight(out: int, channels: int, kernel: int = 1) -> np.ndarray:
    return RANDOM.normal(size=(out, channels, kernel, kernel)).astype(np.float32)


def test_tokens_become_a_map_over_four_axes() -> None:
    model = to_map([0, 2, 1])
    count, ops = rewritten(model, tokens_as_maps)
    assert count == 1 and ops["Reshape"] == ops["Transpose"] == 1
    copy = ModelProto()
    copy.CopyFrom(model)
    tokens_as_maps(copy)
    assert [list(node.attribute[0].ints) for node in copy.graph.node if node.op_type == "Transpose"] == [[0, 3, 1, 2]]


@pytest.mark.parametrize(("perm", "channels"), [([0, 1, 2], 6), ([0, 2, 1], 3)])
def test_other_reshapes_of_tokens_stay(perm: list[int], channels: int) -> None:
    assert rewritten(to_map(perm, channels), tokens_as_maps)[0] == 0


def test_a_map_becomes_tokens_over_four_axes() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], "c"),
        helper.make_node("Reshape", ["map", "size"], ["flat"], "r"),
        helper.make_node("Transpose", ["flat"], ["tokens"], "t", perm=[0, 2, 1]),
        helper.make_node("Relu", ["tokens"], ["y"], "relu"),
    ]
    model = graph(nodes, MAP, w=weight(3, 6), size=np.array([2, 3, 20], np.int64))
    count, ops = rewritten(model, tokens_as_maps)
    assert count == 1 and ops["Reshape"] == ops["Transpose"] == 1
    model.graph.node.append(helper.make_node("Relu", ["flat"], ["z"], "other"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert rewritten(model, tokens_as_maps)[0] == 0, "another node reads the flat map"


def scaled(std: Any, group: int = 1) -> ModelProto:
    nodes = [
        helper.make_node("Div", ["x", "std"], ["scaled"], "div"),
        helper.make_node("Conv", ["scaled", "w"], ["y"], "c", pads=[1, 1, 1, 1], group=group),
    ]
    return graph(nodes, MAP, std=np.array(std, np.float32), w=weight(6, 6 // group, 3))


def test_the_scale_of_the_image_moves_into_the_weights() -> None:
    """The borders are the test: there the padding takes part."""
    count, ops = rewritten(scaled(np.arange(1, 7).reshape(1, 6, 1, 1)), fold_image_scale)
    assert count == 1 and not ops["Div"]


@pytest.mark.parametrize(("std", "group"), [(2.0, 1), (np.arange(1, 6).reshape(1, 1, 1, 5), 1), (np.arange(1, 7).reshape(1, 6, 1, 1), 2)])
def test_other_divisions_stay(std: Any, group: int) -> None:
    assert rewritten(scaled(std, group), fold_image_scale)[0] == 0


@pytest.mark.parametrize(("axes", "keepdims", "count"), [([2, 3], 1, 1), ([-1, -2], 1, 1), ([2, 3], 0, 0), ([1, 2], 1, 0), ([3], 1, 0)])
def test_a_mean_over_the_map_is_a_global_pooling(axes: list[int], keepdims: int, count: int) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], "mean", keepdims=keepdims)]
    found, ops = rewritten(graph(nodes, MAP, axes=np.array(axes, np.int64)), pool_globally)
    assert found == count == ops["GlobalAveragePool"]
