"""Neighbourhood attention in standard operators: tiles of queries against the block of keys that their windows cover.

A tile of 4 x 8 queries needs a block of (3 + kernel) x (7 + kernel) keys: two matrix products and a softmax a tile, and no window is ever
gathered by itself. Which map position is which query or key of which tile is one index vector an axis: tiles, halos, shifted border
windows and dilation (positions that agree modulo the dilation form a map of their own) are all in it. What a query must not see gets a
bias of -inf, from the same table as the relative position bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segc.ops.onnx_functions.body import Body

TILE = (4, 8)


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis of the map, those of every class (remainder of the dilation) one after the other.

    ``queries`` (tiles, T) and ``keys`` (tiles, block) are positions in the map, ``bias`` (tiles, T, block) rows of the bias table, whose
    last is -inf; ``back_tile`` and ``back_place`` (size,) say which tile a position is a query of, and which query there. The others are
    sizes, as int64 vectors of one.
    """

    queries: str
    keys: str
    bias: str
    back_tile: str
    back_place: str
    tiles: str
    tile: str
    block: str


def neighborhood_attention_2d(body: Body, has_bias: bool, tile: tuple[int, int] = TILE) -> str:
    """Record NeighborhoodAttention2D on the inputs of its signature; returns the name of y.

    Products are in q's own type, which every runtime sums in float32; logits and softmax are float32.
    """
    kernels, dilations = (body.split(body.attribute(name, "ints"), [1, 1], axis=0) for name in ("kernel_size", "dilation"))
    rows, columns = (_axis(body, body.size("q", axis + 1), kernels[axis], dilations[axis], tile[axis]) for axis in range(2))
    tiles = [rows.tiles, columns.tiles]
    inner, block = body.op("Mul", rows.tile, columns.tile), body.op("Mul", rows.block, columns.block)
    scale = body.op("CastLike", body.attribute("scale", "float"), "q")
    query_places, key_places = (_places(body, rows, columns, of, (*tiles, size)) for of, size in (("queries", inner), ("keys", block)))
    queries = body.op("Gather", _flat(body, body.op("Mul", "q", scale)), query_places, axis=2)
    keys, values = (body.op("Gather", _flat(body, name), key_places, axis=2) for name in ("k", "v"))
    logits = body.float32(body.op("MatMul", queries, body.op("Transpose", keys, perm=[0, 1, 2, 3, 5, 4])))
    bias = body.reshape(_bias(body, has_bias, rows, columns, kernels), body.ints(-1), *tiles, inner, block)
    weights = body.op("CastLike", body.op("Softmax", body.op("Add", logits, bias), axis=-1), "q")
    return _mapped(body, body.op("MatMul", weights, values), rows, columns)


def _axis(body: Body, size: str, kernel: str, dilation: str, tile: int) -> _Axis:
    """Indices of the tiles along one axis; the last tile of a class overlaps the one before it where the tile does not divide the class.

    A class has ``ceil(size / dilation)`` members, or one less: then its last query is a copy of a real one and dropped in the end.
    """
    zero, one = body.ints(0), body.ints(1)
    members = _ceil_div(body, size, dilation)
    length = body.op("Min", body.ints(tile), members)
    block = body.op("Min", body.op("Sub", body.op("Add", length, kernel), one), members)
    tiles = _ceil_div(body, members, length)
    half = body.op("Div", kernel, body.ints(2))
    first = body.op("Min", body.op("Mul", _range(body, tiles), length), body.op("Sub", members, length))
    start = body.op("Max", body.op("Min", body.op("Sub", first, half), body.op("Sub", members, block)), zero)
    query = body.op("Add", _column(body, first), _range(body, length))
    key = body.op("Add", _column(body, start), _range(body, block))
    classes = _column(body, _column(body, _range(body, dilation)))
    last = body.op("Sub", size, one)

    def position(member: str) -> str:
        return body.op("Min", body.op("Add", body.op("Mul", member, dilation), classes), last)

    back_tile, back_place = _way_back(body, size, dilation, tiles, length, members)
    all_tiles = body.op("Mul", dilation, tiles)
    return _Axis(
        queries=body.reshape(position(query), all_tiles, length),
        keys=body.reshape(position(key), all_tiles, block),
        bias=body.reshape(_bias_rows(body, query, key, size, kernel, dilation, half), all_tiles, length, block),
        back_tile=back_tile,
        back_place=back_place,
        tiles=all_tiles,
        tile=length,
        block=block,
    )


def _bias_rows(body: Body, query: str, key: str, size: str, kernel: str, dilation: str, half: str) -> str:
    """Row of the bias table for each query and key: ``key - query + kernel - 1`` inside the window, ``2 kernel - 1`` outside."""
    one, zero = body.ints(1), body.ints(0)
    classes = _column(body, _column(body, _column(body, _range(body, dilation))))
    members = body.op("Div", body.op("Sub", body.op("Sub", body.op("Add", size, dilation), one), classes), dilation)
    query, key = _column(body, query), body.op("Unsqueeze", key, body.ints(-2))
    start = body.op("Min", body.op("Max", body.op("Sub", query, half), zero), body.op("Sub", members, kernel))
    offset = body.op("Sub", key, start)
    inside = body.op("And", body.op("GreaterOrEqual", offset, zero), body.op("Less", offset, kernel))
    row = body.op("Sub", body.op("Add", body.op("Sub", key, query), kernel), one)
    return body.op("Where", inside, row, body.op("Sub", body.op("Add", kernel, kernel), one))


def _way_back(body: Body, size: str, dilation: str, tiles: str, length: str, members: str) -> tuple[str, str]:
    """For each position of the map, which tile of all classes it is a query of, and which query of that tile."""
    position = _range(body, size)
    member = body.op("Div", position, dilation)
    of_class = body.op("Sub", position, body.op("Mul", member, dilation))
    tile = body.op("Div", member, length)
    first = body.op("Min", body.op("Mul", tile, length), body.op("Sub", members, length))
    return body.op("Add", body.op("Mul", of_class, tiles), tile), body.op("Sub", member, first)


def _flat(body: Body, maps: str) -> str:
    """(batch, height, width, heads, depth) -> (batch, heads, height * width, depth)."""
    maps = body.op("Transpose", maps, perm=[0, 3, 1, 2, 4])
    return body.reshape(maps, body.size("q", 0), body.size("q", 3), body.ints(-1), body.size("q", 4))


def _places(body: Body, rows: _Axis, columns: _Axis, of: str, shape: Sequence[str]) -> str:
    """Index in the flattened map of every query or key: (tiles, tiles, elements of a tile or block)."""
    row = body.op("Unsqueeze", body.op("Mul", getattr(rows, of), body.size("q", 2)), body.ints(1, 3))
    return body.reshape(body.op("Add", row, body.op("Unsqueeze", getattr(columns, of), body.ints(1))), *shape)


def _bias(body: Body, has_bias: bool, rows: _Axis, columns: _Axis, kernels: list[str]) -> str:
    """(heads or 1, tiles, tiles, rows, columns, block rows, block columns) of bias, -inf outside the window."""
    if has_bias:
        table = body.float32("rpb")
    else:
        sizes = [body.op("Sub", body.op("Add", kernel, kernel), body.ints(1)) for kernel in kernels]
        table = body.op("ConstantOfShape", body.concat(body.ints(1), *sizes))
    outside = body.constant(np.array(-np.inf, np.float32))
    table = body.op("Pad", table, body.ints(0, 0, 0, 0, 1, 1), outside)
    # Columns first: what is then gathered by rows is few long pieces.
    gathered = body.op("Gather", body.op("Gather", table, columns.bias, axis=2), rows.bias, axis=1)
    return body.op("Transpose", gathered, perm=[0, 1, 4, 2, 5, 3, 6])


def _mapped(body: Body, y: str, rows: _Axis, columns: _Axis) -> str:
    """(batch, heads, tiles, tiles, elements of a tile, depth) -> (batch, height, width, heads, depth)."""
    width = body.op("Mul", columns.tile, rows.tile)
    across = body.op("Mul", columns.tiles, width)
    tile_row, tile_column = (body.op("Mul", tile, size) for tile, size in ((rows.back_tile, across), (columns.back_tile, width)))
    row = body.op("Add", tile_row, body.op("Mul", rows.back_place, columns.tile))
    places = body.op("Add", _column(body, row), body.op("Add", tile_column, columns.back_place))
    y = body.reshape(y, body.size("q", 0), body.size("q", 3), body.ints(-1), body.size("q", 4))
    return body.op("Transpose", body.op("Gather", y, places, axis=2), perm=[0, 2, 3, 1, 4])


def _ceil_div(body: Body, value: str, divisor: str) -> str:
    return body.op("Div", body.op("Sub", body.op("Add", value, divisor), body.ints(1)), divisor)


def _range(body: Body, length: str) -> str:
    scalar = body.op("Squeeze", length)
    return body.op("Range", body.constant(np.array(0)), scalar, body.constant(np.array(1)))


def _column(body: Body, value: str) -> str:
    return body.op("Unsqueeze", value, body.ints(-1))
