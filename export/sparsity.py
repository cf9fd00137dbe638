"""Which weights of an ONNX graph are 2:4 sparse along their input channels, in fp32, fp16 and Q/DQ graphs alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from segc.ops.onnx_functions.library import attributes

GROUP, KEPT = 4, 2
# What may stand between a constant and the node that multiplies with it.
_CARRIERS = ("DequantizeLinear", "Cast")


@dataclass(frozen=True)
class WeightPattern:
    """A node's constant weights. reason: why they are not 2:4 sparse, empty where they are. dense: they could be, but are not."""

    node: str
    weight: str
    reason: str
    dense: bool = False


def weight_patterns(model: ModelProto) -> list[WeightPattern]:
    """The pattern of every convolution and product with constant weights, in graph order."""
    constants = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        name = _source(node.input[1], makers) if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else ""
        if name in constants:
            found.append(_pattern(node, name, numpy_helper.to_array(constants[name])))
    return found


def _source(name: str, makers: dict[str, NodeProto]) -> str:
    """The tensor that a chain of casts and DequantizeLinear nodes starts from."""
    while name in makers and makers[name].op_type in _CARRIERS:
        name = makers[name].input[0]
    return name


def _pattern(node: NodeProto, name: str, values: NDArray[np.generic]) -> WeightPattern:
    options = attributes(node)
    if node.op_type == "ConvTranspose" or options.get("group", 1) > 1:
        return WeightPattern(node.name, name, "a grouped or transposed convolution")
    axis = {"Conv": 1, "Gemm": 1 if options.get("transB") else 0, "MatMul": values.ndim - 2}[node.op_type]
    channels = values.shape[axis] if values.ndim > 1 else 1
    if channels % GROUP:
        return WeightPattern(node.name, name, f"its {channels} input channels are not divisible by {GROUP}")
    full = int((_nonzero(values, axis) > KEPT).sum())
    reason = f"{full} of {math.prod(values.shape) // GROUP} groups of four have more than two values" if full else ""
    return WeightPattern(node.name, name, reason, dense=bool(full))


def _nonzero(values: NDArray[np.generic], axis: int) -> NDArray[np.intp]:
    """How many of each four neighbours along an axis are not zero."""
    return np.asarray((np.moveaxis(values, axis, -1) != 0).reshape(-1, GROUP).sum(1))
