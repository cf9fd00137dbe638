"""Give a model the bodies of its ``segc`` nodes, or put them in the nodes' place. Needs onnx, not torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper, inliner, numpy_helper, shape_inference

from segc.core.errors import UserError
from segc.ops.onnx_functions.attention import neighborhood_attention_2d
from segc.ops.onnx_functions.body import function
from segc.ops.onnx_functions.scan import MOST_CHUNKS, Form, ScanVariant, chunk_of, cross_selective_scan, selective_scan
from segc.ops.onnx_functions.signature import (
    DOMAIN,
    DOMAIN_VERSION,
    NEIGHBORHOOD_ATTENTION_2D,
    SELECTIVE_SCAN,
    SIGNATURES,
)

# Functions in a model are known from this version of the format on.
_FIRST_IR_WITH_FUNCTIONS = 8
Shapes = Mapping[str, Sequence[int]]


def add_functions(model: ModelProto, form: Form = "loop") -> ModelProto:
    """Give every ``segc`` node of a model its body, in place, replacing those it has; a model without such nodes is left alone.

    One body serves all nodes of an operator, because TensorRT's parser finds a function by its operator's name alone: the body is as
    special as all of them allow (shapes, attributes that agree), and reads from the node what differs.

    Args:
        model: its segc nodes as in ``segc.ops.onnx_functions.signature``.
        form: of the scans; ``loop`` for CPUs, ``tree`` for GPUs (``segc.ops.onnx_functions.scan``).

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
    _unite_bias(model, by_type.get(NEIGHBORHOOD_ATTENTION_2D.op_type, []))
    shapes: Shapes = {}
    for _ in range(2):  # the general bodies first: shapes are known through them
        _replace(model, [_function(model, op_type, nodes, shapes, form) for op_type, nodes in by_type.items()])
        shapes = _shapes(model)
    return model


def inlined(model: ModelProto) -> ModelProto:
    """The same model without functions: each node replaced by its body. For runtimes that know no functions, such as OpenVINO."""
    plain: ModelProto = inliner.inline_local_functions(model)
    return plain


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
    """The most special body that serves all of these scan nodes, given the static shapes that are known.

    Raises:
        UserError: a sequence has more chunks than the body's doubling between chunks reaches.
    """
    lengths = [prod(shapes[node.input[0]][2:]) if node.input[0] in shapes else 0 for node in nodes]
    states = [shapes[node.input[2]][1] if node.input[2] in shapes else 0 for node in nodes]
    chunks = [-(-length // chunk_of(form, length)) for length in lengths]
    if max(chunks) > MOST_CHUNKS:
        raise UserError(
            f"a {nodes[0].op_type} node has {max(lengths)} steps; expected at most {MOST_CHUNKS * chunk_of(form, max(lengths))}."
        )
    known = all(lengths)
    return ScanVariant(
        form,
        delta_softplus=_agreed(nodes, "delta_softplus"),
        reverse=_agreed(nodes, "reverse"),
        scalar_state=all(count == 1 for count in states),
        aligned=known and all(length % chunk_of(form, length) == 0 for length in lengths),
        chunks=max(chunks) if known else MOST_CHUNKS,
    )


def _agreed(nodes: Sequence[NodeProto], name: str) -> bool | None:
    """The flag of all nodes, None where they differ."""
    values = {bool(_attributes(node).get(name, 0)) for node in nodes}
    return values.pop() if len(values) == 1 else None


def _attributes(node: NodeProto) -> dict[str, object]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Tensor -> shape, of those whose shape is static; of the main graph."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    typed = [*graph.input, *graph.value_info, *graph.output]
    shapes = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in typed}
    shapes |= {item.name: list(item.dims) for item in graph.initializer}
    return {name: shape for name, shape in shapes.items() if all(shape)}


def _unite_bias(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Where some attention nodes have a position bias and others none, give those one of zeros: all share one body."""
    lacking = [node for node in nodes if len(node.input) == len(NEIGHBORHOOD_ATTENTION_2D.inputs)]
    if len(lacking) == len(nodes):
        return
    shapes = _shapes(model)
    for node in lacking:
        if node.input[0] not in shapes:
            raise UserError(f"node {node.name!r} has no rpb while others have, and q's shape is not static: give it an rpb of zeros.")
        window = _attributes(node)["kernel_size"]
        shape = (shapes[node.input[0]][3], *(2 * size - 1 for size in window))  # type: ignore[attr-defined]
        name = f"{node.output[0]}_rpb"
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        node.input.append(name)
