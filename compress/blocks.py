"""The blocks of a deploy graph: its nodes by the module of the network that they come from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto

from segc.compress.placement import WEIGHTED, place

LARGEST_SHARE = 1 / 8
_FIRST_DEPTH = 2
_ROOT = "model."

ModulePath = tuple[str, ...]


def blocks_of(model: ModelProto, largest: float = LARGEST_SHARE) -> dict[str, list[str]]:
    """Block -> names of its nodes, both in the order of the graph.

    A node belongs to the module whose parameters it reads (torch's exporters keep their paths), a node without parameters to the block of
    the latest node that it reads. A block is a module two names deep (``backbone.layer1``); one that holds more than ``largest`` of the
    weighted nodes is divided by the next part of the path, and so on. Where no parameter has a path, every weighted node is a block.
    Preprocessing and shape arithmetic read no block: they are in none.

    Args:
        model: a deploy graph, its nodes in topological order and named.
        largest: share of the weighted nodes, 0..1, above which a module is divided.
    """
    paths = _paths(model)
    weighted = Counter(paths[node.name] for node in model.graph.node if node.op_type in WEIGHTED and node.name in paths)
    heads = set(_divide(weighted, _FIRST_DEPTH, largest * sum(weighted.values())))
    blocks: dict[str, list[str]] = defaultdict(list)
    made: dict[str, tuple[int, str]] = {}
    for index, node in enumerate(model.graph.node):
        read = [made[name] for name in node.input if name in made]
        block = _head(paths.get(node.name, ()), heads) or max(read, default=(0, ""))[1]
        if block:
            blocks[block].append(node.name)
            made.update(dict.fromkeys(node.output, (index, block)))
    return dict(blocks)


def int8_blocks(model: ModelProto, blocks: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Block -> names of its nodes that may become int8; blocks without a weighted one among them are left out."""
    placed = set(place(model).quantized)
    weighted = {node.name for node in model.graph.node if node.op_type in WEIGHTED}
    found = {block: [name for name in names if name in placed] for block, names in blocks.items()}
    return {block: names for block, names in found.items() if weighted.intersection(names)}


def _paths(model: ModelProto) -> dict[str, ModulePath]:
    """Node -> path of its module; weighted nodes by their own name where no node has a path."""
    constants = {item.name for item in model.graph.initializer}
    found = {node.name: path for node in model.graph.node if (path := _module_path(node, constants))}
    return found or {node.name: (node.name,) for node in model.graph.node if node.op_type in WEIGHTED}


def _module_path(node: NodeProto, constants: set[str]) -> ModulePath:
    """Path of the module that a node comes from, by its scope (tracing) or its parameters (torch.export); empty where unknown."""
    if node.name.startswith("/"):
        return _scope(node.name)
    names = [name for name in node.input if name in constants and name.startswith(_ROOT)]
    return tuple(names[0].split(".")[1:-1]) if names else ()


def _scope(name: str) -> ModulePath:
    """``/backbone/layer1/layer1.0/conv1/Conv`` -> backbone, layer1, 0, conv1: tracing repeats the list before its item."""
    parts: list[str] = []
    previous = ""
    for part in name.removeprefix("/model").split("/")[1:-1]:
        parts += part.removeprefix(f"{previous}.").split(".")
        previous = part
    return tuple(parts)


def _divide(paths: Counter[ModulePath], depth: int, most: float) -> Iterator[ModulePath]:
    """Beginnings of the paths that are blocks: ``depth`` parts long, longer where one stands for more than ``most`` nodes."""
    groups: dict[ModulePath, Counter[ModulePath]] = defaultdict(Counter)
    for path, count in paths.items():
        groups[path[:depth]][path] += count
    for head, members in groups.items():
        if members.total() > most and any(len(path) > depth for path in members):
            yield from _divide(members, depth + 1, most)
        else:
            yield head


def _head(path: ModulePath, heads: set[ModulePath]) -> str:
    """Name of the block of a path; empty where no weighted node shares its beginning."""
    return next((".".join(path[:end]) for end in range(len(path), 0, -1) if path[:end] in heads), "")
