"""Device functions that the scan kernels share. A tile is (n, height, width); axis 1 walks columns, axis 2 walks rows."""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chain(decay_left, left, decay_right, right):
    """Two stretches of ``h -> decay h + input`` as one."""
    return decay_left * decay_right, decay_right * left + right


@triton.jit
def log1p(x):
    """log(1 + x) for x in [0, 1], to the last bits: the GPU's own logarithm is coarse near 1."""
    if x.dtype == tl.float64:
        whole = 1.0 + x
        result = tl.where(whole == 1.0, x, tl.log(whole) * (x / (whole - 1.0)))
    else:
        s = x / (2.0 + x)
        t = s * s
        series = 1 / 13 * t + 1 / 11
        series = series * t + 1 / 9
        series = series * t + 1 / 7
        series = series * t + 1 / 5
        series = series * t + 1 / 3
        result = 2.0 * s * (series * t + 1.0)
    return result


@triton.jit
def step_size(delta, bias, SOFTPLUS: tl.constexpr):
    """The step of the recurrence from what the network gives; a NaN stays one."""
    x = delta + bias
    if SOFTPLUS:
        x = tl.where(x > 0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))
    return x


@triton.jit
def step_slope(delta, bias, SOFTPLUS: tl.constexpr):
    """d step_size / d delta."""
    x = delta + bias
    return 1.0 / (1.0 + tl.exp(-x)) if SOFTPLUS else tl.full(x.shape, 1.0, x.dtype)


@triton.jit
def per_channel(ptr, head, valid, work: tl.constexpr):
    """D or delta_bias of the channels ``head``; zero where there is none."""
    return tl.zeros(head.shape, work) if ptr is None else tl.load(ptr + head, mask=valid, other=0.0)


@triton.jit
def program_place(tiles, channels, R: tl.constexpr):
    """Batch-and-group, tile and channels of this program; the channels that share B and C run side by side."""
    programs = tl.cdiv(channels, R)
    program = tl.program_id(0)
    rest = program // programs
    return rest // tiles, rest % tiles, program % programs * R + tl.arange(0, R)


@triton.jit
def tile_place(tile, height, width, TH: tl.constexpr, TW: tl.constexpr):
    """Rows (TH,) and columns (TW,) of a tile."""
    across = tl.cdiv(width, TW)
    return tile // across * TH + tl.arange(0, TH), tile % across * TW + tl.arange(0, TW)


@triton.jit
def tile_of_channels(tile, channel, channels, height, width, TH: tl.constexpr, TW: tl.constexpr):
    """Offsets (1, TH, TW) of a tile in its map, which of them lie in it, and which elements (channels, TH, TW) exist."""
    rows, columns = tile_place(tile, height, width, TH, TW)
    place = (rows[:, None] * width + columns[None, :])[None, :, :]
    within = ((rows < height)[:, None] & (columns < width)[None, :])[None, :, :]
    return place, within, (channel < channels)[:, None, None] & within


@triton.jit
def line_place(tile, height, width, COLUMN: tl.constexpr, REVERSE: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Number of each segment of a tile in the order of the walk, how many segments a sequence has, and which of these lie in the map.

    A segment is a piece of one line (a column, or a row), as long as the tile.
    """
    across, down = tl.cdiv(width, TW), tl.cdiv(height, TH)
    rows, columns = tile_place(tile, height, width, TH, TW)
    if COLUMN:
        index, count, valid = columns * down + tile // across, width * down, columns < width
    else:
        index, count, valid = rows * across + tile % across, height * across, rows < height
    if REVERSE:
        index = count - 1 - index
    return index, count, valid


@triton.jit
def entering(ptr, base, some, index, count, exists, STEP: tl.constexpr, AXIS: tl.constexpr):
    """The state that enters each segment: what the chain holds after the segment before it (``STEP`` -1; +1 for the adjoint), else zero.

    Args:
        base, some: (n,), where the states of each row begin, and which rows there are.
        index, exists: (segments,).
    """
    before = index + STEP
    mask = some[:, None] & (exists & (before >= 0) & (before < count))[None, :]
    return tl.expand_dims(tl.load(ptr + base[:, None] + before[None, :], mask=mask, other=0.0), AXIS)
