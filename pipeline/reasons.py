"""Why int8 is not faster here: what a backend left of the Q/DQ pairs, what it reformats, and which nodes int8 does not speed up."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from segc.compress.cast import PAIR
from segc.compress.placement import WEIGHTED, place
from segc.ops.onnx_functions.library import attributes

_REFORMATS = {"onnxruntime": ("ReorderInput", "ReorderOutput", "Transpose"), "openvino": ("Reorder", "Transpose")}
_PAIRS = {"onnxruntime": PAIR, "openvino": ("FakeQuantize", "Convert")}


def reasons(fp32: ModelProto, int8: Path, backend: str) -> list[str]:
    """One sentence for each thing that keeps the int8 graph from being faster, with its count, where it is there and the backend tells it.

    Args:
        fp32: the graph that int8 was made from. int8: the Q/DQ graph. backend: that runs it.
    """
    executed = executed_nodes(int8, backend)
    placement = place(fp32)
    counted = [
        (_count(executed, _PAIRS.get(backend, ())), f"Q/DQ or conversion nodes are left in the graph that {backend} runs"),
        (_count(executed, _REFORMATS.get(backend, ())), "nodes only reformat tensors there"),
        (len(_depthwise(fp32)), "convolutions are depthwise: memory bounds them, not arithmetic"),
        (sum(node.op_type == "Resize" and node.name in placement.kept for node in fp32.graph.node), "resizes run in float"),
        (float_islands(fp32, placement.quantized), "islands of float nodes lie between int8 ones, with a conversion on each side"),
    ]
    return [f"{count} {text}" for count, text in counted if count]


def executed_nodes(path: Path, backend: str) -> Counter[str]:
    """Kind of node -> how many of them the backend runs after its own optimisations; empty for a backend that does not tell."""
    if backend == "openvino":
        from segc.runtime.backends.openvino_backend import OpenVinoRunner

        return OpenVinoRunner(path).executed()
    if backend != "onnxruntime":
        return Counter()
    from segc.runtime.backends.onnx_runtime import OnnxRuntimeRunner

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        OnnxRuntimeRunner(path, optimised=optimised).close()
        return Counter(node.op_type for node in onnx.load(optimised).graph.node)


def float_islands(model: ModelProto, quantized: Iterable[str]) -> int:
    """Connected groups of nodes that are not among the int8 ones named ``quantized``, with one of those both before and behind them."""
    placed = set(quantized)
    makers = {name: node for node in model.graph.node for name in node.output}
    group: dict[str, str] = {}
    fed, feeding = set(), set()
    for node in model.graph.node:
        sources = [makers[name] for name in node.input if name in makers]
        mine = {_root(group, source.name) for source in sources if source.name not in placed}
        if node.name in placed:
            feeding |= mine
            continue
        group[node.name] = node.name
        group.update(dict.fromkeys(mine, node.name))
        if any(source.name in placed for source in sources):
            fed.add(node.name)
    return len({_root(group, name) for name in fed} & {_root(group, name) for name in feeding})


def _root(group: dict[str, str], name: str) -> str:
    while group[name] != name:
        name = group[name]
    return name


def _depthwise(model: ModelProto) -> list[str]:
    constants = {item.name: item.dims for item in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in constants]
    return [node.name for node in convolutions if 1 < attributes(node).get("group", 1) == constants[node.input[1]][0]]


def _count(executed: Counter[str], kinds: Any) -> int:
    return sum(executed[kind] for kind in kinds)
