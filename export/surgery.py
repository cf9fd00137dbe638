"""Small operations on ONNX graphs that every rewrite needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast")


class View:
    """What a rewrite asks about a graph: constants, makers, numbers of readers, static shapes. Taken once; edits do not show in it."""

    def __init__(self, model: ModelProto) -> None:
        model.CopyFrom(onnx.shape_inference.infer_shapes(model))
        graph = model.graph
        self.constants = {item.name: item for item in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.users = count_users(model)
        known = [*graph.value_info, *graph.input, *graph.output]
        self._shapes = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in known}

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of a constant; None for other tensors."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def shape(self, name: str) -> list[int]:
        """Static shape of a tensor; empty when its rank or any of its sizes is not known."""
        shape = self._shapes.get(name, [])
        return shape if all(size > 0 for size in shape) else []

    def rank(self, name: str) -> int:
        """Rank of a tensor; 0 where it is not known."""
        return len(self._shapes.get(name, []))

    def channels(self, name: str) -> int:
        """Channels of a (N, C, H, W) map; 0 where they are not known."""
        shape = self._shapes.get(name, [])
        return shape[1] if len(shape) == 4 else 0

    def maker(self, name: str, op: str) -> NodeProto | None:
        """The node that makes a tensor, when it is an ``op``."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op else None


def decided_on(model: ModelProto) -> str | None:
    """The tensor that the class is decided on: what the ArgMax above the output reads, or the output of a graph of logits or probabilities.

    Reshapes, transpositions and casts on the way are walked over. None for a graph that decides in another way.
    """
    output = model.graph.output[0]
    if output.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return str(output.name)
    makers = {name: node for node in model.graph.node for name in node.output}
    found = makers.get(_behind(output.name, makers))
    return _behind(found.input[0], makers) if found is not None and found.op_type == "ArgMax" else None


def _behind(name: str, makers: Mapping[str, NodeProto]) -> str:
    """The tensor below all that only changes the layout of ``name``."""
    while (node := makers.get(name)) is not None and node.op_type in _LAYOUT:
        name = node.input[0]
    return name


def count_users(model: ModelProto) -> dict[str, int]:
    """Tensor -> how many node inputs and graph outputs read it."""
    users: dict[str, int] = {item.name: 1 for item in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    return users


def put(model: ModelProto, old: NodeProto, nodes: Sequence[NodeProto]) -> None:
    """Put nodes into the place of one."""
    at = list(model.graph.node).index(old)
    model.graph.node.remove(old)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(at + offset, node)


def replace_input(model: ModelProto, old: str, new: str) -> None:
    """Let every node read ``new`` instead of ``old``."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def add_constant(model: ModelProto, name: str, value: NDArray[Any]) -> str:
    """Add an initializer; returns its name."""
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def drop_unused(model: ModelProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    while True:
        used = set(count_users(model))
        dead = [node for node in model.graph.node if not used & set(node.output)]
        if not dead:
            break
        for node in dead:
            model.graph.node.remove(node)
    for item in [item for item in model.graph.initializer if item.name not in used]:
        model.graph.initializer.remove(item)
