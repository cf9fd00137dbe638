# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Gradient of the relative position bias on a GPU, without atomics and without storing pairs.

All pairs of a query and a key that lie the same number of rows apart share a row of the bias table. A program takes one such distance,
walks over strips of queries and the keys that many rows away, and adds up the matrices of logit gradients: in every strip, a diagonal
holds one distance in columns. The diagonals are summed once, at the end. Each program writes its own part of the result.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_plan import SEGMENT_ROWS, choose_strips, padded
from segc.ops.triton_kernels.attention_tiles import LOG2E, per_head, place, read, window_start
from segc.ops.triton_kernels.launch import Launch


@triton.jit
def _attention_backward_bias(
    q, k, v, rpb, grad, lse, delta, partial, q_strides, k_strides, v_strides, grad_strides, height, width, heads, dilation, items,
    SCALE: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, SEGMENT: tl.constexpr, ALIGNMENT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One distance in rows, one chunk of keys, one share of the strips of one head. ``partial``: (chunks, splits, heads, table), zeros."""
    TABLE_ROWS: tl.constexpr = 2 * KERNEL_ROWS - 1
    TABLE_COLUMNS: tl.constexpr = 2 * KERNEL_COLUMNS - 1
    head, chunk = tl.program_id(2), tl.program_id(1) // TABLE_ROWS
    table_row = tl.program_id(1) % TABLE_ROWS
    distance = table_row - (KERNEL_ROWS - 1)
    query, key = tl.arange(0, QUERIES), chunk * KEYS + tl.arange(0, KEYS)
    entry = key[None, :] - query[:, None]
    table = (head * TABLE_ROWS + table_row) * TABLE_COLUMNS
    bias = tl.load(rpb + table + entry, mask=(entry >= 0) & (entry < TABLE_COLUMNS), other=0.0).to(SUM) * (1 / SCALE)
    sums = tl.zeros([QUERIES, KEYS], SUM)
    share = tl.cdiv(items, tl.num_programs(0))
    for item in range(tl.program_id(0) * share, tl.minimum((tl.program_id(0) + 1) * share, items)):
        home, size, first, row = _strip(item, head, height, width, dilation, QUERIES, SEGMENT)
        columns, key_columns = first + query, first - (KERNEL_COLUMNS - 1) + key
        inside, present = columns < size[1], (key_columns >= 0) & (key_columns < size[1])
        away = key_columns[None, :] - window_start(columns, size[1], KERNEL_COLUMNS)[:, None]
        seen = (away >= 0) & (away < KERNEL_COLUMNS) & inside[:, None]
        start = tl.where(seen, bias, -float("inf"))
        begin, end = _rows_at(distance, size[0], KERNEL_ROWS)
        begin, end = tl.maximum(begin, row), tl.minimum(end, row + SEGMENT)
        end = tl.where(tl.max(tl.max(seen.to(tl.int32), 1), 0) > 0, end, begin)
        for at in range(begin, end):
            queries = read(q, q_strides, home, at, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
            change = read(grad, grad_strides, home, at, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
            keys = read(k, k_strides, home, at + distance, key_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
            values = read(v, v_strides, home, at + distance, key_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
            scalars = place(home, per_head(height, width, heads), at, columns, 1)
            base = tl.load(lse + scalars, mask=inside, other=0.0)
            mean = tl.load(delta + scalars, mask=inside, other=0.0)
            scores = tl.dot(queries, tl.trans(keys), start, input_precision="ieee", out_dtype=SUM)
            weights = tl.exp2(scores * (SCALE * LOG2E) - base[:, None])
            sums += weights * (tl.dot(change, tl.trans(values), input_precision="ieee", out_dtype=SUM) - mean[:, None])
    _write_diagonals(partial, sums, table + heads * (TABLE_ROWS * TABLE_COLUMNS) * _part(chunk), chunk * KEYS, TABLE_COLUMNS, QUERIES, KEYS)


@triton.jit
def _part(chunk):
    return (chunk * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)


@triton.jit
def _strip(item, head, height, width, dilation, QUERIES: tl.constexpr, SEGMENT: tl.constexpr):
    """Map (as ``locate`` returns it), size of the map, first column and first row of one strip of columns over one segment of rows."""
    down = tl.cdiv(tl.cdiv(height, dilation[0]), SEGMENT)
    across = tl.cdiv(tl.cdiv(width, dilation[1]), QUERIES)
    row = item % down * SEGMENT
    index = item // down
    column = index % across * QUERIES
    index = index // across
    group_column = index % dilation[1]
    index = index // dilation[1]
    group_row = index % dilation[0]
    size = (tl.cdiv(height - group_row, dilation[0]), tl.cdiv(width - group_column, dilation[1]))
    return (index // dilation[0], head, group_row, group_column, dilation), size, column, row


@triton.jit
def _rows_at(distance, size, KERNEL: tl.constexpr):
    """First query and one past the last query of an axis that sees the key at a distance.

    Within half a window every query does whose key lies in the map. Further away only queries near the border do, whose window is
    shifted: it holds the first keys of the map up to ``KERNEL - 1``, or the last from ``size - KERNEL``.
    """
    begin = tl.where(distance < -(KERNEL // 2), size - KERNEL - distance, tl.maximum(0, -distance))
    end = tl.where(distance > KERNEL // 2, KERNEL - distance, size - tl.maximum(0, distance))
    return begin, end


@triton.jit
def _write_diagonals(partial, sums, table, first, TABLE_COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Store the sum of each diagonal, key less query, at ``table`` plus ``first`` plus the diagonal's number."""
    diagonal = tl.arange(0, 2 * KEYS) - QUERIES
    key = diagonal[None, :] + tl.arange(0, QUERIES)[:, None]
    inside = (key >= 0) & (key < KEYS)
    sheared = tl.gather(sums, tl.where(inside, key, 0), 1)
    entry = first + diagonal
    tl.store(partial + table + entry, tl.sum(tl.where(inside, sheared, 0.0), 0), mask=(entry >= 0) & (entry < TABLE_COLUMNS))


def bias_gradient(given: dict[str, Any], window: Window, scale: float) -> tuple[Tensor, Launch]:
    """The launch that computes the gradient of the bias, and where it will be.

    Args:
        given: the arguments q, k, v, rpb, grad, lse, delta, their strides and alignment, as ``attention_backward.backward`` makes them;
            ``delta`` must be filled before.
        window, scale: of the attention.

    Returns:
        Partial sums (parts, heads, 2 kernel_rows - 1, 2 kernel_columns - 1) in the accumulation dtype; the launch.
    """
    q, lse = given["q"], given["lse"]
    batch, height, width, heads, head_dim = q.shape
    strips = choose_strips((batch, height, width, heads), window.kernel_size, window.dilation, head_dim, q.element_size())
    table = [2 * kernel - 1 for kernel in window.kernel_size]
    partial = lse.new_zeros((strips.chunks * strips.splits, heads, *table))
    arguments = given | {
        "partial": partial, "height": height, "width": width, "heads": heads, "dilation": window.dilation, "items": strips.items,
        "SCALE": scale, "KERNEL_ROWS": window.kernel_size[0], "KERNEL_COLUMNS": window.kernel_size[1], "HEAD_DIM": head_dim,
        "WIDTH": padded(head_dim), "QUERIES": strips.queries, "KEYS": strips.keys, "SEGMENT": SEGMENT_ROWS,
        "SUM": tl.float64 if lse.dtype == torch.float64 else tl.float32,
    }  # fmt: skip
    return partial, Launch(
        _attention_backward_bias, (strips.splits, table[0] * strips.chunks, heads), arguments, strips.warps, strips.stages
    )
