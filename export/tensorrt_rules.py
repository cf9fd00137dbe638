"""What TensorRT's explicit quantization accepts, checked on the ONNX graph: each offending node is named.

Rules from NVIDIA's "Working with quantized types" (TensorRT 10 and 11): symmetric int8 only, scales constant, positive and finite, weights
per output channel, activations per tensor, biases in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segc.ops.onnx_functions.library import attributes

_PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Violation:
    """A node TensorRT would refuse: its name, the rule's short name, and what was found."""

    node: str
    rule: str
    detail: str


def check_qdq(model: ModelProto) -> list[Violation]:
    """All violations of a Q/DQ graph, in graph order; empty when TensorRT would accept it."""
    graph = _Graph(model)
    found = []
    for node in model.graph.node:
        if node.op_type in _PAIR:
            found += [Violation(node.name or node.output[0], rule, detail) for rule, detail in _check_node(graph, node)]
    return found


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        self.constants: dict[str, NDArray] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self.constants |= {node.output[0]: value for node in model.graph.node for value in _constant_value(node)}
        self.types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in self.constants.items()}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.outputs = {item.name for item in model.graph.output}


def _check_node(graph: _Graph, node: NodeProto) -> Iterator[tuple[str, str]]:
    yield from _check_scale(graph, node)
    yield from _check_zero_point(graph, node)
    yield from _check_axis(graph, node)
    yield from _check_neighbours(graph, node)


def _check_scale(graph: _Graph, node: NodeProto) -> Iterator[tuple[str, str]]:
    scale = graph.constants.get(node.input[1])
    if scale is None:
        yield "constant-scale", f"its scale {node.input[1]!r} is computed, not a constant"
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield "positive-scale", f"its scale is not positive and finite (smallest {scale.min()})"


def _check_zero_point(graph: _Graph, node: NodeProto) -> Iterator[tuple[str, str]]:
    name = node.input[2] if len(node.input) > 2 else ""
    kind = graph.types.get(name) if name else _implied_type(graph, node)
    if kind != TensorProto.INT8:
        what = TensorProto.DataType.Name(kind) if kind is not None else "computed"
        bias = " (TensorRT takes float biases)" if kind == TensorProto.INT32 else ""
        yield "int8", f"its type is {what}, not INT8{bias}"
    if name in graph.constants and graph.constants[name].any():
        yield "symmetric", f"its zero point is {graph.constants[name].ravel()[0]}, not 0"


def _implied_type(graph: _Graph, node: NodeProto) -> int | None:
    """Quantized type of a node without a zero point: that of its input, or ``output_dtype``, which is uint8 when left out."""
    if node.op_type == "QuantizeLinear":
        return attributes(node).get("output_dtype", 0) or int(TensorProto.UINT8)
    maker = graph.makers.get(node.input[0])
    if maker is None or maker.op_type != "QuantizeLinear":
        return graph.types.get(node.input[0])
    return graph.types.get(maker.input[2]) if len(maker.input) > 2 and maker.input[2] else _implied_type(graph, maker)


def _constant_value(node: NodeProto) -> list[NDArray]:
    """The value of a Constant node; empty for other nodes."""
    return [numpy_helper.to_array(item.t) for item in node.attribute if node.op_type == "Constant" and item.name == "value"]


def _check_axis(graph: _Graph, node: NodeProto) -> Iterator[tuple[str, str]]:
    scale = graph.constants.get(node.input[1])
    if scale is None or scale.size == 1:
        return
    if _weight(graph, node) is None:
        yield "per-tensor-activation", f"it has {scale.size} scales, but it quantizes an activation"
        return
    axis = attributes(node).get("axis", 1)
    for user in _readers(graph, node):
        expected = _channel_axis(graph, user, node)
        if expected is not None and axis % max(_rank(graph, node), 1) != expected:
            yield "channel-axis", f"its scales lie on axis {axis}; {user.op_type} {user.name} has its output channels on axis {expected}"


def _check_neighbours(graph: _Graph, node: NodeProto) -> Iterator[tuple[str, str]]:
    if node.op_type == "QuantizeLinear":
        others = [user.op_type for user in graph.users.get(node.output[0], []) if user.op_type != "DequantizeLinear"]
        if others or node.output[0] in graph.outputs or node.output[0] not in graph.users:
            yield "pair", f"its int8 output goes to {', '.join(others) or 'no'} node instead of a DequantizeLinear"
    elif node.input[0] not in graph.constants:
        maker = graph.makers.get(node.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            yield "pair", f"its int8 input comes from {maker.op_type if maker else 'a graph input'}, not from a QuantizeLinear"


def _weight(graph: _Graph, node: NodeProto) -> NDArray | None:
    """The constant that a node of a weight's Q/DQ pair works on, None for activations."""
    name = node.input[0]
    maker = graph.makers.get(name)
    if maker is not None and maker.op_type == "QuantizeLinear":
        name = maker.input[0]
    return graph.constants.get(name)


def _rank(graph: _Graph, node: NodeProto) -> int:
    weight = _weight(graph, node)
    return 0 if weight is None else weight.ndim


def _readers(graph: _Graph, node: NodeProto) -> list[NodeProto]:
    readers = graph.users.get(node.output[0], [])
    return [user for reader in readers for user in (_readers(graph, reader) if reader.op_type == "DequantizeLinear" else [reader])]


def _channel_axis(graph: _Graph, user: NodeProto, node: NodeProto) -> int | None:
    """Axis of the output channels in the weight of ``user``; None for ops without one."""
    if user.op_type == "Conv":
        return 0
    if user.op_type == "ConvTranspose":
        return 1
    if user.op_type == "Gemm":
        return 0 if attributes(user).get("transB", 0) else 1
    return _rank(graph, node) - 1 if user.op_type == "MatMul" else None
