"""Shapes of the tiles that the attention kernels work in, as pure functions of the problem: no GPU and no Triton needed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from segc.core.errors import UserError

MAX_HEAD_BYTES, MAX_WARPS = 1024, 8
MIN_DOT = 16  # the smallest side of a matrix product that tensor cores take
SIDES = (1, 2, 4, 8, 16, 32)
BIAS_PROGRAMS = 4096
SEGMENT_ROWS = 16
_OPERATIONS, _LANES = 20, 128  # scalar work of one query-key pair (mask, bias, softmax), lanes of one multiprocessor
_STEP = 3.0  # clocks of one multiprocessor that a warp's turn of the loop costs each of 16 queries besides: addresses, reductions
_PRODUCT, _FETCH = 2048, 64  # flops and bytes from the L2 cache that one multiprocessor takes a clock, in half precision
_WARP_REGISTERS = 32 * 128  # half of what 32 threads can have
_SHARED = 60 * 1024  # of 64 KiB that compute capability 7.5 has, the least
_MOST_SHARED = 92 * 1024  # of 99 KiB that 8.6, 8.9 and 12.0 have; only for the longest heads
_LONG_HEAD, _WALK = 64, 2  # dk and dv of long heads spill on 7.5 where a tile walks over more than twice its own positions at a time


@dataclass(frozen=True)
class Tiles:
    """A program keeps a tile of ``own`` (rows, columns) positions and walks over tiles of ``loop`` positions."""

    own: tuple[int, int]
    loop: tuple[int, int]
    warps: int
    stages: int


@dataclass(frozen=True)
class Strips:
    """A program of the bias gradient pairs strips of ``queries`` positions of a row with chunks of ``keys`` positions of another."""

    queries: int
    keys: int
    chunks: int
    items: int
    splits: int
    warps: int
    stages: int


def padded(head_dim: int) -> int:
    """The power of two, 16 or more, that a head dimension is padded to inside a kernel."""
    return max(MIN_DOT, 1 << (head_dim - 1).bit_length())


def choose_tiles(kernel_size: tuple[int, int], head_dim: int, item_bytes: int, accumulators: int = 1) -> Tiles:
    """The first of ``rank_tiles``."""
    return rank_tiles(kernel_size, head_dim, item_bytes, accumulators)[0]


@cache
def rank_tiles(kernel_size: tuple[int, int], head_dim: int, item_bytes: int, accumulators: int = 1) -> tuple[Tiles, ...]:
    """Tiles that fit, the one that needs the least work by a simple model of one multiprocessor first.

    A small tile of queries computes fewer pairs that no window holds, a large one reads each key fewer times; the model weighs scalar
    work, products and reads from the L2 cache.

    Args:
        kernel_size: (rows, columns).
        head_dim: at most 256.
        item_bytes: of q's dtype: 2, 4 or 8.
        accumulators: matrices (own positions, head_dim) that a program sums up: 1 for the output or dq, 2 for dk and dv.

    Raises:
        UserError: a head dimension over 256, or over 128 in float64.
    """
    width, most = padded(head_dim), MAX_HEAD_BYTES // max(4, item_bytes)
    if width > most:
        raise UserError(f"q has head_dim {head_dim}; neighborhood_attention_2d takes up to {most} on a GPU in {8 * item_bytes} bits.")
    shapes = itertools.product(_shapes(128, 4), _shapes(64, 8))
    warps = {shape: _warps(*shape, width, item_bytes, accumulators) for shape in shapes}
    options = [Tiles(own, loop, count, _stages(own, loop, width, item_bytes)) for (own, loop), count in warps.items() if count <= MAX_WARPS]
    shared = {tiles: _shared(tiles.own, tiles.loop, tiles.stages, width, item_bytes) for tiles in options}
    walk = _WALK if accumulators > 1 and width >= _LONG_HEAD else math.inf
    fitting = [tiles for tiles in options if shared[tiles] <= _MOST_SHARED and math.prod(tiles.loop) <= walk * math.prod(tiles.own)]
    return tuple(
        sorted(fitting, key=lambda tiles: (shared[tiles] > _SHARED, _cost(tiles, kernel_size, width, item_bytes), tiles.own, tiles.loop))
    )


@cache
def choose_strips(
    shape: tuple[int, int, int, int], kernel_size: tuple[int, int], dilation: tuple[int, int], head_dim: int, item_bytes: int
) -> Strips:
    """How the gradient of the bias is split into programs: many enough to fill a GPU, and always the same for the same problem.

    Args:
        shape: (batch, height, width, heads).
        kernel_size, dilation: (rows, columns).
        head_dim: at most 256.
        item_bytes: of q's dtype: 2, 4 or 8.
    """
    batch, height, width, heads = shape
    long = padded(head_dim) * item_bytes > 512
    queries, keys = 32 if kernel_size[1] > 31 and not long else 16, 16 if long else 32
    rows, columns = math.ceil(height / dilation[0]), math.ceil(width / dilation[1])
    items = batch * dilation[0] * dilation[1] * math.ceil(columns / queries) * math.ceil(rows / SEGMENT_ROWS)
    chunks = math.ceil((queries + 2 * kernel_size[1] - 2) / keys)
    splits = math.ceil(BIAS_PROGRAMS / (heads * chunks * (2 * kernel_size[0] - 1)))
    warps = min(MAX_WARPS, queries // MIN_DOT * max(2, padded(head_dim) // 16))
    stages = _stages((1, queries), (1, queries + keys), padded(head_dim), item_bytes)
    return Strips(queries, keys, chunks, items, min(splits, items), warps, stages)


def alignment(*tensors: Tensor) -> int:
    """Largest power of two, at most 16, that divides every stride of the tensors but their unit strides along the head dimension.

    It tells the compiler how many neighbouring elements one instruction may read; strides alone say so only when divisible by 16.
    """
    strides = [stride for tensor in tensors for axis, stride in enumerate(tensor.stride()) if axis < 4 or stride != 1]
    return math.gcd(16, *strides)


def _shapes(most: int, columns_from: int) -> list[tuple[int, int]]:
    """Tiles of up to ``most`` positions; in maps of which neighbouring columns are neighbours in memory, wide ones read faster."""
    pairs = itertools.product(SIDES, SIDES)
    return [(rows, columns) for rows, columns in pairs if columns >= columns_from and MIN_DOT <= rows * columns <= most]


def _warps(own: tuple[int, int], loop: tuple[int, int], width: int, item_bytes: int, accumulators: int) -> int:
    """16 positions a warp, as the tensor cores take them, and more until what a program holds fills half of its warps' registers.

    It holds the sums in 32 bits or more, each logit with the address of its bias, and two tiles walked over with half a register of address
    a number.
    """
    positions, walked = math.prod(own), math.prod(loop)
    registers = positions * accumulators * (width + 3 * walked) * max(1, item_bytes // 4) + 2 * walked * width * (item_bytes / 4 + 0.5)
    return max(positions // MIN_DOT, 1 << (math.ceil(registers / _WARP_REGISTERS) - 1).bit_length())


def _stages(own: tuple[int, int], loop: tuple[int, int], width: int, item_bytes: int) -> int:
    """Pairs of tiles walked over that are in flight: two where every GPU has the memory."""
    return 2 if _shared(own, loop, 2, width, item_bytes) <= _SHARED else 1


def _shared(own: tuple[int, int], loop: tuple[int, int], stages: int, width: int, item_bytes: int) -> int:
    """Bytes of shared memory: two tiles of the program's own, as backward, and the pairs walked over."""
    return 2 * (math.prod(own) + stages * math.prod(loop)) * width * item_bytes


def _cost(tiles: Tiles, kernel_size: tuple[int, int], width: int, item_bytes: int) -> float:
    """Clocks of one multiprocessor for one query."""
    pairs = math.prod(
        math.ceil((own + kernel - 1) / loop) * loop for own, loop, kernel in zip(tiles.own, tiles.loop, kernel_size, strict=True)
    )
    own = math.prod(tiles.own)
    each = _OPERATIONS / _LANES + 4 * width / _PRODUCT * item_bytes / 2 + 2 * width * item_bytes / _FETCH / own
    steps = pairs / math.prod(tiles.loop)
    return pairs * each + steps * (_STEP * tiles.warps * MIN_DOT / own + width / _LANES)
