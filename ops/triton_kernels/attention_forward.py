# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Neighbourhood attention on a GPU: a tile of queries against the tiles of the keys its windows cover, softmax updated on the way.

The softmax is that of FlashAttention (arXiv 2205.14135; one maximum and sum per query, 2307.08691), the keys of a tile of queries are the
union of their windows as in fused neighbourhood attention (arXiv 2403.04690). Nothing of size kernel x kernel is ever stored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.reference import accumulation_dtype
from segc.ops.triton_kernels.attention_plan import Tiles, alignment, choose_tiles, padded
from segc.ops.triton_kernels.attention_tiles import (
    LOG2E,
    dense,
    locate,
    loop_positions,
    per_head,
    place,
    positions,
    read,
    unscaled_bias,
    window_start,
    write,
)
from segc.ops.triton_kernels.launch import Launch


@triton.jit
def _attention_forward(
    q, k, v, rpb, out, lse, q_strides, k_strides, v_strides, height, width, heads, dilation,
    SCALE: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
    OWN_ROWS: tl.constexpr, OWN_COLUMNS: tl.constexpr, LOOP_ROWS: tl.constexpr, LOOP_COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head. ``lse`` (batch, heads, height, width): log2 of the softmax's denominator, or None."""
    home, size, first = locate(height, width, heads, dilation, OWN_ROWS, OWN_COLUMNS)
    rows, columns = positions(first[0], first[1], OWN_ROWS, OWN_COLUMNS)
    inside = (rows < size[0]) & (columns < size[1])
    queries = read(q, q_strides, home, rows, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
    # A query past the map counts as the last one: what it computes is in bounds and is not stored.
    rows, columns = tl.minimum(rows, size[0] - 1), tl.minimum(columns, size[1] - 1)
    begin, end = key_range(first, size, OWN_ROWS, OWN_COLUMNS, KERNEL_ROWS, KERNEL_COLUMNS)
    highest = tl.full([OWN_ROWS * OWN_COLUMNS], -float("inf"), SUM)
    total = tl.zeros([OWN_ROWS * OWN_COLUMNS], SUM)
    sums = tl.zeros([OWN_ROWS * OWN_COLUMNS, WIDTH], SUM)
    across = tl.cdiv(end[1] - begin[1], LOOP_COLUMNS)
    for step in range(across * tl.cdiv(end[0] - begin[0], LOOP_ROWS)):
        key_rows, key_columns = loop_positions(begin, step, across, LOOP_ROWS, LOOP_COLUMNS)
        present = (key_rows < end[0]) & (key_columns < end[1])
        keys = read(k, k_strides, home, key_rows, key_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
        values = read(v, v_strides, home, key_rows, key_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
        start = unscaled_bias(
            rpb, home[1], (rows[:, None], columns[:, None]), (key_rows[None, :], key_columns[None, :]), size,
            SCALE, KERNEL_ROWS, KERNEL_COLUMNS, SUM,
        )  # fmt: skip
        scores = tl.dot(queries, tl.trans(keys), start, input_precision="ieee", out_dtype=SUM)
        higher = tl.maximum(highest, tl.max(scores, 1))
        # A query that has seen no key yet has no maximum: 0 keeps exp2(-inf - maximum) at 0 and not NaN.
        base = tl.where(higher == -float("inf"), 0.0, higher) * (SCALE * LOG2E)
        weights = tl.exp2(scores * (SCALE * LOG2E) - base[:, None])
        fade = tl.exp2(highest * (SCALE * LOG2E) - base)
        total = total * fade + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * fade[:, None], input_precision="ieee", out_dtype=SUM)
        highest = higher
    offset = place(home, dense(height, width, heads, HEAD_DIM), rows, columns, HEAD_DIM & -HEAD_DIM)
    write(out, offset, inside, sums / total[:, None], HEAD_DIM, WIDTH)
    if lse is not None:
        offset = place(home, per_head(height, width, heads), rows, columns, 1)
        tl.store(lse + offset, highest * (SCALE * LOG2E) + tl.log2(total), mask=inside)


@triton.jit
def key_range(first, size, OWN_ROWS: tl.constexpr, OWN_COLUMNS: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr):
    """First key and one past the last key that any query of a tile sees, along both axes."""
    row, column = tl.minimum(first[0], size[0] - 1), tl.minimum(first[1], size[1] - 1)
    last_row, last_column = tl.minimum(row + OWN_ROWS, size[0]) - 1, tl.minimum(column + OWN_COLUMNS, size[1]) - 1
    begin = (window_start(row, size[0], KERNEL_ROWS), window_start(column, size[1], KERNEL_COLUMNS))
    end = (window_start(last_row, size[0], KERNEL_ROWS) + KERNEL_ROWS, window_start(last_column, size[1], KERNEL_COLUMNS) + KERNEL_COLUMNS)
    return begin, end


def forward(
    q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None, with_lse: bool, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor | None, list[Launch]]:
    """The launch that computes ``segc.ops.attention.neighborhood_attention_2d`` of checked arguments, and where the result will be.

    The scale must be positive: the kernels look for the highest logit before they scale it.

    Returns:
        The output, contiguous; with ``with_lse`` (batch, heads, height, width), log2 of the sum of the exponentials of each query's logits,
        in the accumulation dtype; the launches.

    Raises:
        UserError: a head dimension that the kernels do not take.
    """
    batch, height, width, heads, head_dim = q.shape
    tiles = tiles or choose_tiles(window.kernel_size, head_dim, q.element_size())
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty((batch, heads, height, width), dtype=accumulation_dtype(q.dtype)) if with_lse else None
    arguments = {"q": q, "k": k, "v": v, "rpb": None if rpb is None else rpb.contiguous(), "out": out, "lse": lse}
    arguments |= strides(q=q, k=k, v=v) | problem(q, window, scale, tiles)
    return out, lse, [Launch(_attention_forward, grid(q, window, tiles), arguments, tiles.warps, tiles.stages)]


def strides(**tensors: Tensor) -> dict[str, Any]:
    """Arguments of a kernel that say how tensors (batch, height, width, heads, head_dim) lie in memory."""
    return {f"{name}_strides": tensor.stride() for name, tensor in tensors.items()} | {"ALIGNMENT": alignment(*tensors.values())}


def problem(q: Tensor, window: Window, scale: float, tiles: Tiles) -> dict[str, Any]:
    """Arguments of a kernel that say what to compute and in which tiles."""
    _, height, width, heads, head_dim = q.shape
    return {
        "height": height,
        "width": width,
        "heads": heads,
        "dilation": window.dilation,
        "SCALE": scale,
        "KERNEL_ROWS": window.kernel_size[0],
        "KERNEL_COLUMNS": window.kernel_size[1],
        "HEAD_DIM": head_dim,
        "WIDTH": padded(head_dim),
        "OWN_ROWS": tiles.own[0],
        "OWN_COLUMNS": tiles.own[1],
        "LOOP_ROWS": tiles.loop[0],
        "LOOP_COLUMNS": tiles.loop[1],
        "SUM": tl.float64 if q.dtype == torch.float64 else tl.float32,
    }


def grid(q: Tensor, window: Window, tiles: Tiles) -> tuple[int]:
    """Programs: tiles of the largest dilation group's map, in every group, head and image."""
    per_axis = [
        step * math.ceil(math.ceil(size / step) / own) for size, step, own in zip(q.shape[1:3], window.dilation, tiles.own, strict=True)
    ]
    return (q.shape[0] * q.shape[3] * math.prod(per_axis),)
