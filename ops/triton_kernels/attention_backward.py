# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Gradients of neighbourhood attention on a GPU, from the output and the softmax's logarithms (FlashAttention-2, arXiv 2307.08691).

``dq``: a tile of queries walks over its keys, as forward. ``dk`` and ``dv``: a tile of keys walks over the queries that see it. Each
program writes its own part, so that two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_bias import bias_gradient
from segc.ops.triton_kernels.attention_forward import grid, key_range, problem, strides
from segc.ops.triton_kernels.attention_plan import Tiles, choose_tiles
from segc.ops.triton_kernels.attention_tiles import (
    LOG2E,
    dense,
    first_query,
    last_query,
    locate,
    loop_positions,
    per_head,
    place,
    positions,
    read,
    unscaled_bias,
    write,
)
from segc.ops.triton_kernels.launch import Launch


@triton.jit
def _attention_backward_queries(
    q, k, v, rpb, out, grad, lse, delta, dq, q_strides, k_strides, v_strides, grad_strides, height, width, heads, dilation,
    SCALE: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
    OWN_ROWS: tl.constexpr, OWN_COLUMNS: tl.constexpr, LOOP_ROWS: tl.constexpr, LOOP_COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """``dq`` of one tile of queries of one head, and ``delta`` (batch, heads, height, width): each query's output times its gradient."""
    home, size, first = locate(height, width, heads, dilation, OWN_ROWS, OWN_COLUMNS)
    rows, columns = positions(first[0], first[1], OWN_ROWS, OWN_COLUMNS)
    inside = (rows < size[0]) & (columns < size[1])
    queries = read(q, q_strides, home, rows, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
    change = read(grad, grad_strides, home, rows, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
    output = read(out, dense(height, width, heads, HEAD_DIM), home, rows, columns, inside, HEAD_DIM, WIDTH, HEAD_DIM & -HEAD_DIM)
    mean = tl.sum(change.to(SUM) * output.to(SUM), 1)
    scalars = place(home, per_head(height, width, heads), rows, columns, 1)
    tl.store(delta + scalars, mean, mask=inside)
    base = tl.load(lse + scalars, mask=inside, other=0.0)
    # A query past the map counts as the last one: what it computes is in bounds and is not stored.
    rows, columns = tl.minimum(rows, size[0] - 1), tl.minimum(columns, size[1] - 1)
    sums = tl.zeros([OWN_ROWS * OWN_COLUMNS, WIDTH], SUM)
    begin, end = key_range(first, size, OWN_ROWS, OWN_COLUMNS, KERNEL_ROWS, KERNEL_COLUMNS)
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
        weights = tl.exp2(scores * (SCALE * LOG2E) - base[:, None])
        slopes = weights * (tl.dot(change, tl.trans(values), input_precision="ieee", out_dtype=SUM) - mean[:, None])
        sums = tl.dot(slopes.to(keys.dtype), keys, sums, input_precision="ieee", out_dtype=SUM)
    write(
        dq, place(home, dense(height, width, heads, HEAD_DIM), rows, columns, HEAD_DIM & -HEAD_DIM), inside, sums * SCALE, HEAD_DIM, WIDTH
    )


@triton.jit
def _attention_backward_keys(
    q, k, v, rpb, grad, lse, delta, dk, dv, q_strides, k_strides, v_strides, grad_strides, height, width, heads, dilation,
    SCALE: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
    OWN_ROWS: tl.constexpr, OWN_COLUMNS: tl.constexpr, LOOP_ROWS: tl.constexpr, LOOP_COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """``dk`` and ``dv`` of one tile of keys of one head; matrices of pairs have the keys down and the queries across."""
    home, size, first = locate(height, width, heads, dilation, OWN_ROWS, OWN_COLUMNS)
    rows, columns = positions(first[0], first[1], OWN_ROWS, OWN_COLUMNS)
    inside = (rows < size[0]) & (columns < size[1])
    keys = read(k, k_strides, home, rows, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
    values = read(v, v_strides, home, rows, columns, inside, HEAD_DIM, WIDTH, ALIGNMENT)
    key_sums = tl.zeros([OWN_ROWS * OWN_COLUMNS, WIDTH], SUM)
    value_sums = tl.zeros([OWN_ROWS * OWN_COLUMNS, WIDTH], SUM)
    begin, end = _query_range(first, size, OWN_ROWS, OWN_COLUMNS, KERNEL_ROWS, KERNEL_COLUMNS)
    across = tl.cdiv(end[1] - begin[1], LOOP_COLUMNS)
    for step in range(across * tl.cdiv(end[0] - begin[0], LOOP_ROWS)):
        query_rows, query_columns = loop_positions(begin, step, across, LOOP_ROWS, LOOP_COLUMNS)
        present = (query_rows < end[0]) & (query_columns < end[1])
        queries = read(q, q_strides, home, query_rows, query_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
        change = read(grad, grad_strides, home, query_rows, query_columns, present, HEAD_DIM, WIDTH, ALIGNMENT)
        scalars = place(home, per_head(height, width, heads), query_rows, query_columns, 1)
        # A query that is not present sees nothing: its weights are exp2(-inf).
        base = tl.load(lse + scalars, mask=present, other=float("inf"))
        mean = tl.load(delta + scalars, mask=present, other=0.0)
        query_rows, query_columns = tl.minimum(query_rows, size[0] - 1), tl.minimum(query_columns, size[1] - 1)
        start = unscaled_bias(
            rpb, home[1], (query_rows[None, :], query_columns[None, :]), (rows[:, None], columns[:, None]), size,
            SCALE, KERNEL_ROWS, KERNEL_COLUMNS, SUM,
        )  # fmt: skip
        scores = tl.dot(keys, tl.trans(queries), start, input_precision="ieee", out_dtype=SUM)
        weights = tl.exp2(scores * (SCALE * LOG2E) - base[None, :])
        value_sums = tl.dot(weights.to(change.dtype), change, value_sums, input_precision="ieee", out_dtype=SUM)
        slopes = weights * (tl.dot(values, tl.trans(change), input_precision="ieee", out_dtype=SUM) - mean[None, :])
        key_sums = tl.dot(slopes.to(queries.dtype), queries, key_sums, input_precision="ieee", out_dtype=SUM)
    offset = place(home, dense(height, width, heads, HEAD_DIM), rows, columns, HEAD_DIM & -HEAD_DIM)
    write(dk, offset, inside, key_sums * SCALE, HEAD_DIM, WIDTH)
    write(dv, offset, inside, value_sums, HEAD_DIM, WIDTH)


@triton.jit
def _query_range(first, size, OWN_ROWS: tl.constexpr, OWN_COLUMNS: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr):
    """First query and one past the last query that sees any key of a tile, along both axes."""
    row, column = tl.minimum(first[0], size[0] - 1), tl.minimum(first[1], size[1] - 1)
    last_row, last_column = tl.minimum(row + OWN_ROWS, size[0]) - 1, tl.minimum(column + OWN_COLUMNS, size[1]) - 1
    begin = (first_query(row, KERNEL_ROWS), first_query(column, KERNEL_COLUMNS))
    end = (last_query(last_row, size[0], KERNEL_ROWS) + 1, last_query(last_column, size[1], KERNEL_COLUMNS) + 1)
    return begin, end


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None, out: Tensor, lse: Tensor,
    tiles: Tiles | None = None, key_tiles: Tiles | None = None,
) -> tuple[list[Tensor], list[Launch]]:  # fmt: skip
    """The launches that compute the gradients of ``forward``, and where they will be.

    Args:
        grad: of the output; any strides.
        out, lse: as ``forward`` returned them.
        tiles, key_tiles: for dq, and for dk and dv; None chooses.

    Returns:
        dq, dk, dv, contiguous, and with rpb partial sums of its gradient (parts, heads, ...) in the accumulation dtype, to be summed over
        the parts; the launches, in order.
    """
    head_dim, item_bytes = q.shape[4], q.element_size()
    tiles = tiles or choose_tiles(window.kernel_size, head_dim, item_bytes)
    key_tiles = key_tiles or choose_tiles(window.kernel_size, head_dim, item_bytes, accumulators=2)
    dq, dk, dv = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
    delta = torch.empty_like(lse)
    given = {"q": q, "k": k, "v": v, "rpb": None if rpb is None else rpb.contiguous(), "grad": grad, "lse": lse, "delta": delta}
    given |= strides(q=q, k=k, v=v, grad=grad)
    queries = given | {"out": out, "dq": dq} | problem(q, window, scale, tiles)
    keys = given | {"dk": dk, "dv": dv} | problem(q, window, scale, key_tiles)
    launches = [
        Launch(_attention_backward_queries, grid(q, window, tiles), queries, tiles.warps, tiles.stages),
        Launch(_attention_backward_keys, grid(q, window, key_tiles), keys, key_tiles.warps, key_tiles.stages),
    ]
    if rpb is None:
        return [dq, dk, dv], launches
    partial, launch = bias_gradient(given, window, scale)
    return [dq, dk, dv, partial], [*launches, launch]
