"""Precisions a block: which nodes stay in float, and which of these become fp16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onnx import ModelProto

from segc.calib.calibrate import collect
from segc.compress.blocks import blocks_of
from segc.compress.cast import FP16, PAIR, cast_graph, keep_in_fp32
from segc.compress.scales import floor_weight_scales
from segc.core.contract import Contract
from segc.core.errors import UserError, nearest
from segc.export.onnx_graph import opset_of
from segc.export.verify import pick

BLOCK_PRECISIONS = ("int8", "int8-fp16", "fp16", "fp32")
# Those whose weighted nodes are int8, and those whose float nodes are fp16.
INT8, HALF = ("int8", "int8-fp16"), ("int8-fp16", "fp16")
DEFAULT = "int8"
ANALYSED_IMAGES = 8
_FIRST_OPSET_WITH_HALF_SCALES = 19


def float_nodes(model: ModelProto, precisions: Mapping[str, str]) -> frozenset[str]:
    """Names of the nodes of all blocks that are not to be int8.

    Args:
        model: the fp32 deploy graph.
        precisions: block (``segc.compress.blocks``) -> a name of ``BLOCK_PRECISIONS``; blocks that are not named are int8.

    Raises:
        UserError: an unknown block or precision; the nearest is told.
    """
    blocks = blocks_of(model)
    _check(blocks, precisions)
    return frozenset(name for block, names in blocks.items() if precisions.get(block, DEFAULT) not in INT8 for name in names)


def lower_blocks(
    model: ModelProto, graph: ModelProto, precisions: Mapping[str, str], magnitudes: Callable[[], Mapping[str, float]]
) -> ModelProto:
    """``graph``, made from ``model``, with the float nodes of its 16-bit blocks cast to fp16; itself where there is no such block.

    Args:
        magnitudes: gives tensor -> largest magnitude on real images; called where there is such a block.

    Raises:
        UserError: see ``check_scales``.
    """
    if not any(precision in HALF for precision in precisions.values()):
        return graph
    check_scales(graph)
    full = [name for block, names in blocks_of(model).items() if precisions.get(block, DEFAULT) not in HALF for name in names]
    graph = floor_weight_scales(graph, FP16.smallest)
    return cast_graph(graph, FP16, keep_in_fp32(graph, FP16, magnitudes(), full))


def largest_magnitudes(model: ModelProto, contract: Contract, images: Sequence[Path], threads: int | None = None) -> dict[str, float]:
    """Tensor -> largest magnitude of a graph on a few of the images: what decides whether it fits into fp16."""
    return {tensor: found.amax for tensor, found in collect(model, contract, pick(images, ANALYSED_IMAGES), threads).items()}


def check_scales(model: ModelProto) -> None:
    """Refuse to lower a Q/DQ graph that cannot have 16-bit scales.

    Raises:
        UserError: its opset is too old.
    """
    opset = opset_of(model)
    if opset < _FIRST_OPSET_WITH_HALF_SCALES and any(node.op_type in PAIR for node in model.graph.node):
        raise UserError(
            f"a Q/DQ graph of opset {opset} has fp32 scales only; 16-bit ones need opset {_FIRST_OPSET_WITH_HALF_SCALES}.",
            "Export the bundle again with --opset 20.",
        )


def _check(blocks: Mapping[str, list[str]], precisions: Mapping[str, str]) -> None:
    for block, precision in precisions.items():
        if block not in blocks:
            raise UserError(f"the graph has no block {block!r}.{nearest(block, blocks)}", "See them: segc sensitivity BUNDLE")
        if precision not in BLOCK_PRECISIONS:
            raise UserError(f"block {block} is to be {precision!r}.{nearest(precision, BLOCK_PRECISIONS)}")
