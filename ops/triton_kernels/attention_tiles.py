# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""What the attention kernels share: where a program works, which keys a query sees, and how a tile is read.

Positions are counted within a dilation group: the positions of one remainder modulo the dilation are a dense map of their own, and a
window never leaves it. Vectors and tiles of positions are row-major.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def locate(height, width, heads, dilation, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr):
    """The tile of this program: its map, the map's size, and the tile's first position. All are pairs of rows and columns.

    Programs are counted tile by tile in a map, then by group, head and image. A tile may lie outside the map of a smaller group.

    Returns:
        The map as (image, head, group's row, group's column, dilation); (rows, columns) of the map; (row, column) of the tile.
    """
    index = tl.program_id(0)
    across = tl.cdiv(tl.cdiv(width, dilation[1]), TILE_COLUMNS)
    down = tl.cdiv(tl.cdiv(height, dilation[0]), TILE_ROWS)
    column = index % across * TILE_COLUMNS
    index = index // across
    row = index % down * TILE_ROWS
    index = index // down
    group_column = index % dilation[1]
    index = index // dilation[1]
    group_row = index % dilation[0]
    index = index // dilation[0]
    rows = tl.cdiv(height - group_row, dilation[0])
    columns = tl.cdiv(width - group_column, dilation[1])
    return (index // heads, index % heads, group_row, group_column, dilation), (rows, columns), (row, column)


@triton.jit
def positions(row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of the positions of a tile."""
    index = tl.arange(0, ROWS * COLUMNS)
    return row + index // COLUMNS, column + index % COLUMNS


@triton.jit
def loop_positions(begin, step, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of the positions of the tile walked over at a step, of so many tiles across."""
    return positions(begin[0] + step // across * ROWS, begin[1] + step % across * COLUMNS, ROWS, COLUMNS)


@triton.jit
def window_start(query, size, KERNEL: tl.constexpr):
    """First key that a query sees along an axis: NATTEN's rule, the window is shifted inside the map. Past the map, as its last query."""
    return tl.minimum(tl.maximum(query - KERNEL // 2, 0), size - KERNEL)


@triton.jit
def first_query(key, KERNEL: tl.constexpr):
    """First query that sees a key along an axis: the first of all where the window starts at 0, else half a window before."""
    return tl.where(key < KERNEL, 0, key - KERNEL // 2)


@triton.jit
def last_query(key, size, KERNEL: tl.constexpr):
    """Last query that sees a key along an axis: the last of all where the window ends at the map's end, else half a window after."""
    return tl.where(key >= size - KERNEL, size - 1, key + KERNEL // 2)


@triton.jit
def visible(queries, keys, size, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr):
    """Whether queries (rows, columns) see keys (rows, columns); the positions broadcast."""
    rows = keys[0] - window_start(queries[0], size[0], KERNEL_ROWS)
    columns = keys[1] - window_start(queries[1], size[1], KERNEL_COLUMNS)
    return (rows >= 0) & (rows < KERNEL_ROWS) & (columns >= 0) & (columns < KERNEL_COLUMNS)


@triton.jit
def place(home, strides, rows, columns, ALIGNMENT: tl.constexpr):
    """Offset of each position of a map in a tensor (batch, height, width, heads, ...), of whose strides the alignment is a divisor."""
    down = (home[2] + rows * home[4][0]).to(tl.int64) * strides[1]
    across = (home[3] + columns * home[4][1]).to(tl.int64) * strides[2]
    offset = home[0].to(tl.int64) * strides[0] + home[1].to(tl.int64) * strides[3] + down + across
    if ALIGNMENT > 1:
        offset = tl.multiple_of(offset, ALIGNMENT)
    return offset


@triton.jit
def read(tensor, strides, home, rows, columns, inside, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Vectors (positions, WIDTH) of a map, 0 where a position is not inside and beyond the head dimension."""
    offset, lanes = place(home, strides, rows, columns, ALIGNMENT), tl.arange(0, WIDTH)
    mask = inside[:, None] & (lanes < HEAD_DIM)[None, :]
    return tl.load(tensor + offset[:, None] + lanes.to(tl.int64)[None, :] * strides[4], mask=mask, other=0.0)


@triton.jit
def write(tensor, offset, inside, values, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Store vectors (positions, WIDTH) at the positions' offsets in a contiguous tensor."""
    lanes = tl.arange(0, WIDTH)
    mask = inside[:, None] & (lanes < HEAD_DIM)[None, :]
    tl.store(tensor + offset[:, None] + lanes[None, :], values.to(tensor.dtype.element_ty), mask=mask)


@triton.jit
def dense(height, width, heads, depth):
    """Strides of a contiguous tensor (batch, height, width, heads, depth)."""
    row = width.to(tl.int64) * heads * depth
    return (row * height, row, heads * depth, depth, 1)


@triton.jit
def per_head(height, width, heads):
    """Strides, in the same order, of a contiguous (batch, heads, height, width)."""
    area = height.to(tl.int64) * width
    return (area * heads, width, 1, area)


@triton.jit
def bias_code(rows, columns, KERNEL_COLUMNS: tl.constexpr):
    """A number for each position whose difference, key less query, is the distance between their entries in the bias table."""
    return rows * (2 * KERNEL_COLUMNS - 1) + columns


@triton.jit
def unscaled_bias(
    rpb, head, queries, keys, size, SCALE: tl.constexpr, KERNEL_ROWS: tl.constexpr, KERNEL_COLUMNS: tl.constexpr, SUM: tl.constexpr
):  # fmt: skip
    """What a product of queries and keys starts from, before the scale: the bias, and what softmax takes to 0 where a key is not seen.

    As the first summand of the product it costs no instruction, and the compiler keeps the logits where the tensor cores left them.
    ``queries`` and ``keys`` are (rows, columns) along the axes they lie on. The queries must lie in the map, or the bias table is read
    beyond its end.
    """
    seen = visible(queries, keys, size, KERNEL_ROWS, KERNEL_COLUMNS)
    if rpb is None:
        return tl.where(seen, 0.0, -float("inf")).to(SUM)
    table = head * ((2 * KERNEL_ROWS - 1) * (2 * KERNEL_COLUMNS - 1)) + bias_code(KERNEL_ROWS - 1, KERNEL_COLUMNS - 1, KERNEL_COLUMNS)
    step = bias_code(keys[0], keys[1], KERNEL_COLUMNS) - bias_code(queries[0], queries[1], KERNEL_COLUMNS)
    return tl.load(rpb + table + step, mask=seen, other=-float("inf")).to(SUM) * (1 / SCALE)
