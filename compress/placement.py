"""Which nodes of a deploy graph become int8, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Ops that runtimes run on int8 values between weighted ops, so that a chain need not go back to float.
CHAIN = ("Add", "Relu", "Clip", "MaxPool", "AveragePool", "Concat", "Resize")
# Their int8 forms lose accuracy, or do not exist in TensorRT.
FLOAT = ("LayerNormalization", "Softmax", "Gelu", "Erf", "Sigmoid", "HardSigmoid", "ArgMax", "ReduceMean", "InstanceNormalization")

REASON_BEFORE = "preprocessing: runs on pixel values before the first weighted node"
REASON_AFTER = "postprocessing: decides the class map"
REASON_LOGITS = "gives the logits: their differences decide the class map"
REASON_FLOAT = "needs float range"
REASON_BROKEN = "reads a float tensor: quantizing it would add a round trip and speed up nothing"
REASON_INTERPOLATED = "interpolates: runtimes do it in float, and rounding its input would only lose accuracy"
REASON_UPSAMPLED = "reads a Concat of upsampled maps: OpenVINO computes its int8 form wrongly"
REASON_USER = "kept by name"


@dataclass
class Placement:
    """``quantized``: names of the int8 nodes. ``kept``: name -> reason, for every other node whose op could have been int8."""

    quantized: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def place(model: ModelProto, keep: frozenset[str] = frozenset(), chains: bool = True) -> Placement:
    """Choose the int8 nodes of a graph.

    Weighted nodes are quantized, except those that give the logits and those behind a Concat of upsampled maps. A node of ``CHAIN`` is
    quantized only when every tensor it reads comes from a quantized node.

    Args:
        model: a deploy graph; its nodes are in topological order and named.
        keep: names of nodes to leave in float.
        chains: False quantizes weighted nodes only.
    """
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    before = _without_weighted(list(graph.node), forward=True)
    after = _without_weighted(list(graph.node), forward=False)
    reasons = {**dict.fromkeys(_behind_upsampled(model), REASON_UPSAMPLED), **dict.fromkeys(keep, REASON_USER)}
    placement = Placement()
    from_int8: set[str] = set()
    for node in graph.node:
        if node.op_type not in WEIGHTED + CHAIN + FLOAT:
            continue
        reason = _reason(node, before, after, reasons, constants, from_int8, chains)
        if reason:
            placement.kept[node.name] = reason
        else:
            placement.quantized.append(node.name)
            from_int8.update(node.output)
    return placement


def _behind_upsampled(model: ModelProto) -> set[str]:
    """Weighted nodes that read a Concat with a Resize among its inputs, and these Concats."""
    makers = {name: node for node in model.graph.node for name in node.output}
    mixed = {
        node.output[0]: node.name
        for node in model.graph.node
        if node.op_type == "Concat" and any(name in makers and makers[name].op_type == "Resize" for name in node.input)
    }
    readers = {node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[0] in mixed}
    return readers | set(mixed.values())


def activations_of(node: NodeProto) -> list[str]:
    """Tensors a node reads as values: without the sizes of a Resize and the limits of a Clip."""
    return [name for name in node.input[: 1 if node.op_type in ("Resize", "Clip") else None] if name]


def _reason(
    node: NodeProto, before: set[str], after: set[str], reasons: dict[str, str], constants: set[str], from_int8: set[str], chains: bool
) -> str:
    """Why a node stays in float; empty when it becomes int8."""
    if node.name in reasons:
        return reasons[node.name]
    if node.op_type in FLOAT:
        return REASON_FLOAT
    weighted = node.op_type in WEIGHTED
    if node.name in before and not weighted:
        return REASON_BEFORE
    if node.name in after:
        return REASON_LOGITS if weighted else REASON_AFTER
    if weighted:
        return ""
    if node.op_type == "Resize" and _interpolates(node):
        return REASON_INTERPOLATED
    reads = [name for name in activations_of(node) if name not in constants]
    return "" if chains and reads and all(name in from_int8 for name in reads) else REASON_BROKEN


def _interpolates(resize: NodeProto) -> bool:
    return any(item.name == "mode" and item.s in (b"linear", b"cubic") for item in resize.attribute)


def _without_weighted(nodes: list[NodeProto], forward: bool) -> set[str]:
    """Names of nodes with no weighted node among their ancestors (``forward``) or descendants."""
    reached: set[str] = set()
    clear = set()
    for node in nodes if forward else reversed(nodes):
        reads, gives = (node.input, node.output) if forward else (node.output, node.input)
        tainted = any(name in reached for name in reads)
        if not tainted:
            clear.add(node.name)
        if tainted or node.op_type in WEIGHTED:
            reached.update(gives)
    return clear
