"""Tensors of a graph whose channels may be rescaled: what makes such a tensor can be divided, all that reads it multiplied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from segc.ops.onnx_functions.library import attributes

# f(x / s) = f(x) / s for s > 0, a channel at a time.
_HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Transpose", "Reshape")


@dataclass(frozen=True)
class Slot:
    """Where the channels of a tensor lie in a constant: along ``axis``, or, with ``groups``, along axis 1 of each group of rows."""

    constant: str
    axis: int
    groups: int = 1

    def spread(self, factors: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Factors of the channels, shaped to multiply a constant of this shape."""
        if self.groups == 1:
            return factors.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        rows = np.repeat(factors.reshape(self.groups, -1), shape[0] // self.groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))

    def largest(self, values: NDArray[Any]) -> NDArray[Any]:
        """Largest magnitude of the constant in each channel."""
        magnitude = np.abs(values)
        if self.groups == 1:
            return np.asarray(magnitude.max(axis=tuple(axis for axis in range(values.ndim) if axis != self.axis)))
        return np.asarray(magnitude.reshape(self.groups, -1, values.shape[1], math.prod(values.shape[2:])).max(axis=(1, 3)).ravel())


@dataclass(frozen=True)
class Joint:
    """A tensor between weights. ``made``: constants that are divided; the first holds the weights. ``read``: weights that are multiplied.

    ``seen``: (tensor, axis of its channels), for each reader: what it reads.
    """

    tensor: str
    made: tuple[Slot, ...]
    read: tuple[Slot, ...]
    seen: tuple[tuple[str, int], ...]


def find_joints(model: ModelProto) -> list[Joint]:
    """The joints of a graph, in graph order.

    Dividing channel c of the tensor's maker by s_c > 0 and multiplying its readers by s_c leaves the graph's output as it was: the maker is
    a convolution, a product with a constant, a LayerNorm or a product with a vector; between it and the readers stand only operators with
    f(x / s) = f(x) / s and additions of constants.
    """
    graph = _Graph(model)
    found = []
    for node in model.graph.node:
        made = list(_made(graph, node))
        axis = _channel_axis(graph, node)
        if made and axis is not None and graph.own(made):
            ends = _Ends(graph)
            if ends.follow(node.output[0], axis) and ends.read and graph.own([*made, *ends.added, *ends.read]):
                found.append(Joint(node.output[0], (*made, *ends.added), tuple(ends.read), tuple(ends.seen)))
    return found


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.constants = {item.name: list(item.dims) for item in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {item.name for item in model.graph.output}
        known = (*inferred.value_info, *inferred.input)
        self.shapes = {item.name: [axis.dim_value for axis in item.type.tensor_type.shape.dim] for item in known}

    def own(self, slots: Sequence[Slot]) -> bool:
        """Whether each constant is read once in the graph."""
        names = [slot.constant for slot in slots]
        return len(set(names)) == len(names) and all(len(self.readers[name]) == 1 for name in names)


class _Ends:
    """Where the channels of a tensor arrive: at weights, and at constants that are added on the way."""

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph
        self.added: list[Slot] = []
        self.read: list[Slot] = []
        self.seen: list[tuple[str, int]] = []

    def follow(self, name: str, axis: int) -> bool:
        """Whether all that reads a tensor can take rescaled channels."""
        readers = self.graph.readers.get(name, [])
        return name not in self.graph.outputs and all(self._arrive(node, name, axis) for node in readers)

    def _arrive(self, node: NodeProto, name: str, axis: int) -> bool:
        slot = _read(self.graph, node, name, axis)
        if slot is not None:
            self.read.append(slot)
            self.seen.append((name, axis))
            return True
        behind = _behind(self.graph, node, name, axis)
        return behind is not None and self._added(node, name, axis) and self.follow(node.output[0], behind)

    def _added(self, node: NodeProto, name: str, axis: int) -> bool:
        """Take note of what an Add adds; False where it is no vector over the channels."""
        if node.op_type != "Add":
            return True
        other = next((each for each in node.input if each != name), name)
        slot = _vector(self.graph, other, axis, len(self.graph.shapes.get(name, [])))
        self.added += [slot] if slot else []
        return slot is not None


def _made(graph: _Graph, node: NodeProto) -> Iterator[Slot]:
    """Constants that scale what a node gives; none where it cannot absorb factors."""
    options = attributes(node)
    weight, bias = [*node.input[1:3], "", ""][:2]
    if node.op_type == "LayerNormalization":
        constants = [name for name in (weight, bias) if name]
        if all(len(graph.constants.get(name, [])) == 1 for name in constants):
            yield from (Slot(name, 0) for name in constants)
    elif node.op_type == "Mul":
        vector = next((name for name in node.input if name in graph.constants), "")
        axis = next((axis for axis, size in enumerate(graph.constants.get(vector, [])) if size > 1), None)
        if axis is not None and math.prod(graph.constants[vector]) == graph.constants[vector][axis]:
            yield Slot(vector, axis)
    elif weight in graph.constants and (not bias or len(graph.constants.get(bias, [])) == 1):
        rank = len(graph.constants[weight])
        axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if options.get("transB") else 1, "MatMul": rank - 1}.get(node.op_type)
        if axis is not None and rank > 1 and (node.op_type != "ConvTranspose" or options.get("group", 1) == 1):
            yield Slot(weight, axis)
            yield from [Slot(bias, 0)] if bias else []


def _channel_axis(graph: _Graph, node: NodeProto) -> int | None:
    """The axis of a node's output that its constants run along."""
    rank = len(graph.shapes.get(node.output[0], []))
    if node.op_type in ("Conv", "ConvTranspose"):
        return 1
    if node.op_type == "Mul":
        slots = list(_made(graph, node))
        return rank - len(graph.constants[slots[0].constant]) + slots[0].axis if slots and rank else None
    return rank - 1 if rank else None


def _read(graph: _Graph, node: NodeProto, name: str, axis: int) -> Slot | None:
    """The weights that a node multiplies a tensor's channels with; None where it does not."""
    if len(node.input) < 2 or node.input[0] != name or node.input[1] not in graph.constants:
        return None
    weight, options, last = node.input[1], attributes(node), len(graph.shapes.get(name, [])) - 1
    groups, rank = options.get("group", 1), len(graph.constants[node.input[1]])
    if node.op_type == "Conv" and axis == 1:
        return Slot(weight, 1, groups)
    if node.op_type == "ConvTranspose" and axis == 1 and groups == 1:
        return Slot(weight, 0)
    if node.op_type == "Gemm" and axis == 1 and not options.get("transA"):
        return Slot(weight, 1 if options.get("transB") else 0)
    return Slot(weight, rank - 2) if node.op_type == "MatMul" and axis == last and rank == 2 else None


def _behind(graph: _Graph, node: NodeProto, name: str, axis: int) -> int | None:
    """The axis of the channels behind a node that rescaled channels may pass; None where they may not."""
    if node.op_type == "Add":
        return axis
    if node.op_type not in _HOMOGENEOUS or node.input[0] != name:
        return None
    if node.op_type == "Transpose":
        order = list(attributes(node).get("perm", range(len(graph.shapes.get(name, [])))[::-1]))
        return order.index(axis)
    if node.op_type == "Reshape":
        return _same_axis(graph.shapes.get(name, []), graph.shapes.get(node.output[0], []), axis)
    return axis


def _same_axis(before: list[int], after: list[int], axis: int) -> int | None:
    """The axis of a reshaped tensor that is this whole axis; None where it was split or merged, or a size is not known."""
    if not before or not after or min(*before, *after) < 1:
        return None
    ahead = math.prod(before[:axis])
    same = (at for at, size in enumerate(after) if size == before[axis] and math.prod(after[:at]) == ahead)
    return next(same, None)


def _vector(graph: _Graph, name: str, axis: int, rank: int) -> Slot | None:
    """A constant that is broadcast to a tensor and varies along its channels only."""
    shape = graph.constants.get(name)
    own = axis - rank + len(shape) if shape is not None else -1
    return Slot(name, own) if shape is not None and own >= 0 and math.prod(shape) == shape[own] > 1 else None
