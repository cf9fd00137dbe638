"""Give a model the bodies of its ``segc`` nodes, or put them in the nodes' place. Needs onnx, not torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper, inliner, numpy_helper, shape_inference

from segc.core.errors import UserError
from segc.ops.onnx_functions.attention import neighborhood_attention_2d
from segc.ops.onnx_functions.body import function
from segc.ops.onnx_functions.lines import CHUNK
from segc.ops.onnx_functions.scan import Form, ScanVariant, cross_selective_scan, selective_scan
from segc.ops.onnx_functions.signature import (
    DOMAIN,
    DOMAIN_VERSION,
    NEIGHBORHOOD_ATTENTION_2D,
    SELECTIVE_SCAN,
    SIGNATURES,
)

# Functions in a model are known from this version of the format on.
_FIRST_IR_WITH_FUNCTIONS = 8
MOST_STEPS = 2**20
Shapes = Mapping[str, Sequence[int]]


def add_functions(model: ModelProto, form: Form = "sums") -> ModelProto:
    """Give every ``segc`` node of a model its body, in place, replacing those it has; a model without such nodes is left alone.

    One body serves all nodes of an operator, because TensorRT's parser finds a function by its operator's name alone: the body is as
    special as all of them allow (shapes, attributes that agree), and reads from the node what differs.

    Args:
        model: its segc nodes as in ``segc.ops.onnx_functions.signature``.
        form: of the scans; ``sums`` for CPUs, ``tree`` for GPUs (``segc.ops.onnx_functions.scan``).

    Returns:
        The model itself.

    Raises:
        UserError: an operator that is not known, a sequence that is too long, or an opset that is too old.
    """
    by_type = _nodes_by_type(model)
    if not by_type:
        return model
    if all(item.domain != DOMAIN for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.ir_version = max(model.ir_version, _FIRST_IR_WITH_FUNCTIONS)
    shapes = _infer_shapes(model)
    _unite_bias(model, by_type.get(NEIGHBORHOOD_ATTENTION_2D.op_type, []), shapes)
    _replace(model, [_function(model, op_type, nodes, shapes, form) for op_type, nodes in by_type.items()])
    return model


def inlined(model: ModelProto) -> ModelProto:
    """The same model without functions: each node replaced by its body. For runtimes that know no functions, such as OpenVINO."""
    plain: ModelProto = inliner.inline_local_functions(model)
    return plain


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attribute name -> value of a node."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _nodes_by_type(model: ModelProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in _all_nodes(model.graph):
        if node.domain == DOMAIN:
            if node.op_type not in SIGNATURES:
                raise UserError(f"unknown operator {DOMAIN}.{node.op_type}; expected one of {', '.join(SIGNATURES)}.")
            found.setdefault(node.op_type, []).append(node)
    return found


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _replace(model: ModelProto, functions: Iterable[FunctionProto]) -> None:
    kept = [item for item in model.functions if item.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend([*kept, *functions])


def _function(model: ModelProto, op_type: str, nodes: Sequence[NodeProto], shapes: Shapes, form: Form) -> FunctionProto:
    signature = SIGNATURES[op_type]
    opset = next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if op_type == NEIGHBORHOOD_ATTENTION_2D.op_type:
        has_bias = len(nodes[0].input) > len(signature.inputs)
        inputs = (*signature.inputs, *signature.optional[:has_bias])
        return function(signature, partial(neighborhood_attention_2d, has_bias=has_bias), inputs, opset)
    record = selective_scan if op_type == SELECTIVE_SCAN.op_type else cross_selective_scan
    return function(signature, partial(record, variant=scan_variant(nodes, shapes, form)), signature.inputs, opset)


def scan_variant(nodes: Sequence[NodeProto], shapes: Shapes, form: Form) -> ScanVariant:
    """The most special body that serves all of these scan nodes; in ``shapes``, 0 is a size that is open.

    Raises:
        UserError: a sequence has more steps than the body's doubling between chunks reaches.
    """
    spaces = [tuple(shapes.get(node.input[0], ())[2:]) for node in nodes]
    known = all(space and all(space) for space in spaces)
    longest = max((prod(space) for space in spaces if all(space)), default=0)
    if longest > MOST_STEPS:
        raise UserError(f"a {nodes[0].op_type} node has {longest} steps; expected at most {MOST_STEPS}.")
    return ScanVariant(
        # A map has most chunks along its columns, each of which begins with a new one.
        max(-(-space[0] // CHUNK) * prod(space[1:]) for space in spaces) if known else MOST_STEPS // CHUNK,
        form,
        delta_softplus=_agreed(nodes, "delta_softplus"),
        reverse=_agreed(nodes, "reverse"),
        scalar_state=all(_size(shapes, node.input[2], 1) == 1 for node in nodes),
        aligned=known and all(space[0] % CHUNK == 0 for space in spaces),
    )


def _agreed(nodes: Sequence[NodeProto], name: str) -> bool | None:
    """The flag of all nodes, None where they differ."""
    values = {bool(attributes(node).get(name, 0)) for node in nodes}
    return values.pop() if len(values) == 1 else None


def _infer_shapes(model: ModelProto) -> Shapes:
    """Write the types that follow from y being like the first input into the model; tensor -> shape, 0 for a size that is open.

    onnx itself does not see through a body whose shapes are computed.
    """
    stub = ModelProto.FromString(model.SerializeToString())
    for node in _all_nodes(stub.graph):
        if node.domain == DOMAIN:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    graph = shape_inference.infer_shapes(stub, data_prop=True).graph
    del model.graph.value_info[:]
    model.graph.value_info.extend(graph.value_info)
    typed = [*graph.input, *graph.value_info, *graph.output]
    shapes = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in typed}
    return shapes | {item.name: list(item.dims) for item in graph.initializer}


def _unite_bias(model: ModelProto, nodes: Sequence[NodeProto], shapes: Shapes) -> None:
    """Where some attention nodes have a position bias and others none, give those one of zeros: all share one body."""
    lacking = [node for node in nodes if len(node.input) == len(NEIGHBORHOOD_ATTENTION_2D.inputs)]
    if len(lacking) == len(nodes):
        return
    for node in lacking:
        heads = _size(shapes, node.input[0], 3)
        if not heads:
            raise UserError(f"node {node.name!r} has no rpb while others have, and its number of heads is open: give it an rpb of zeros.")
        rows, columns = attributes(node)["kernel_size"]
        bias = np.zeros((heads, 2 * rows - 1, 2 * columns - 1), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(bias, f"{node.output[0]}_rpb"))
        node.input.append(f"{node.output[0]}_rpb")


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """Size of one axis of a tensor, 0 where it is not known."""
    return shapes[name][axis] if len(shapes.get(name, ())) > axis else 0
