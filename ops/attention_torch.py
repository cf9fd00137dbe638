"""Neighbourhood attention in plain torch, for machines without a compiler: tiles of queries against the union of their keys, under a mask.

A tile of t x t queries sees at most (t + kernel - 1)^2 keys, so that both products are matrix products and the extra memory is one tile's
logits, whatever the map. The backward pass computes each tile's weights again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.reference import accumulation_dtype, window_indices

TILE = 8


@dataclass(frozen=True)
class _Span:
    """Neighbouring queries of one axis and the keys any of them sees; (queries, keys) tables of who sees whom and of the bias row."""

    queries: slice
    keys: slice
    visible: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Tile:
    """The queries and keys of a span of rows and a span of columns; (queries, keys) tables over the flattened tile."""

    queries: tuple[slice, slice, slice]
    keys: tuple[slice, slice, slice]
    visible: Tensor
    bias: Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> Tensor:
    """``segc.ops.attention.neighborhood_attention_2d`` of checked arguments, contiguous."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for tile in _tiles(q, window):
        weights = _weights(tile, _matrix(q[tile.queries]) * scale, _matrix(k[tile.keys]), rpb)
        target = out[tile.queries]
        target.copy_(_map(_product(weights, _matrix(v[tile.keys]), tile.visible), target))
    return out


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and rpb, each contiguous and of its own dtype; the last is empty where there is no rpb."""
    work = accumulation_dtype(q.dtype)
    dq, dk, dv = (torch.zeros(tensor.shape, dtype=work, device=q.device) for tensor in (q, k, v))
    drpb = q.new_zeros((0,) if rpb is None else rpb.shape, dtype=work)
    for tile in _tiles(q, window):
        queries, keys, values, g = (_matrix(m) for m in (q[tile.queries], k[tile.keys], v[tile.keys], grad[tile.queries]))
        weights = _weights(tile, queries * scale, keys, rpb)
        dweights = (g @ values.mT).masked_fill(~tile.visible, 0)
        dlogits = (weights * (dweights - (weights * dweights).sum(-1, keepdim=True))).masked_fill(~tile.visible, 0)
        _add(dq[tile.queries], _product(dlogits, keys, tile.visible) * scale)
        _add(dk[tile.keys], _product(dlogits.mT, queries, tile.visible.mT) * scale)
        _add(dv[tile.keys], _product(weights.mT, g, tile.visible.mT))
        if rpb is not None:
            drpb.flatten(1).index_add_(1, tile.bias.flatten(), dlogits.sum(0).flatten(1))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), drpb.to(q.dtype if rpb is None else rpb.dtype)


def _weights(tile: _Tile, queries: Tensor, keys: Tensor, rpb: Tensor | None) -> Tensor:
    """Softmax weights (batch, heads, queries, keys), 0 where a query does not see a key, even in the row of a NaN."""
    logits = queries @ keys.mT
    if rpb is not None:
        logits = logits + rpb.to(logits.dtype).flatten(1)[:, tile.bias]
    return logits.masked_fill(~tile.visible, -math.inf).softmax(-1).masked_fill(~tile.visible, 0)


def _product(weights: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """``weights @ values``, where a NaN or infinity that is not visible does not enter as 0 x NaN."""
    if values.isfinite().all():
        return weights @ values
    return (weights[..., None] * values[:, :, None]).masked_fill(~visible[..., None], 0).sum(-2)


def _matrix(part: Tensor) -> Tensor:
    """(batch, rows, columns, heads, head_dim) -> (batch, heads, rows * columns, head_dim) in the accumulation dtype."""
    return part.to(accumulation_dtype(part.dtype)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _map(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``_matrix``."""
    return matrix.unflatten(2, like.shape[1:3]).permute(0, 2, 3, 1, 4)


def _add(target: Tensor, matrix: Tensor) -> None:
    target.add_(_map(matrix, target))


def _tiles(q: Tensor, window: Window) -> Iterator[_Tile]:
    height, width = (list(_spans(*axis, q.device)) for axis in zip(q.shape[1:3], window.kernel_size, window.dilation, strict=True))
    everything, table_width = slice(None), 2 * window.kernel_size[1] - 1
    for rows, columns in itertools.product(height, width):
        yield _Tile(
            (everything, rows.queries, columns.queries),
            (everything, rows.keys, columns.keys),
            _pairs(torch.logical_and, rows.visible, columns.visible),
            _pairs(torch.add, rows.bias * table_width, columns.bias),
        )


def _spans(length: int, kernel: int, dilation: int, device: torch.device) -> Iterator[_Span]:
    keys, _ = window_indices(length, kernel, dilation)
    for group in range(dilation):
        for queries in torch.arange(group, length, dilation).split(TILE):
            first, last = keys[queries, :1], keys[queries, -1:]
            seen = torch.arange(int(first[0]), int(last[-1]) + 1, dilation)
            steps = (seen - queries[:, None]) // dilation + kernel - 1
            yield _Span(
                _slice(queries, dilation),
                _slice(seen, dilation),
                ((seen >= first) & (seen <= last)).to(device),
                steps.clamp(0, 2 * kernel - 2).to(device),
            )


def _slice(positions: Tensor, step: int) -> slice:
    return slice(int(positions[0]), int(positions[-1]) + 1, step)


def _pairs(combine: Callable[[Tensor, Tensor], Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """(query rows, key rows) and (query columns, key columns) -> (queries, keys) over the flattened tile."""
    return combine(rows[:, None, :, None], columns[None, :, None, :]).flatten(2).flatten(0, 1)
