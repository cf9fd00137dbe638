"""How a scan is cut for a GPU: pure arithmetic, no GPU and no Triton needed."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

LINE = 1024  # steps of one program where a plain sequence is cut
ROW_STATES = 16  # the one-pass kernel holds all states of a row in registers
BACKWARD_STATES = 16  # states of one pass of the backward kernel
BACKWARD_ELEMENTS = 2048
PROGRAMS_PER_MULTIPROCESSOR = 2
LEAST_FILL = 0.75  # one row a program from this share of the multiprocessors on


@dataclass(frozen=True)
class Shape:
    """A scan, plain or crossed. A plain scan is a map of height 1 and one direction.

    Args:
        batch, groups, states: as in ``segc.ops.scan``.
        channels: of one group (plain) or of the map (cross).
        height, width: of the map; 1 and the length for a plain scan.
        first: first direction: 0 along rows, 1 along columns, 2 and 3 the same reversed.
        directions: 1 (plain) or 4 (cross).
    """

    batch: int
    groups: int
    channels: int
    states: int
    height: int
    width: int
    first: int = 0
    directions: int = 1

    @property
    def rows(self) -> int:
        """Independent sequences."""
        return self.batch * self.directions * self.groups * self.channels

    @property
    def plane(self) -> int:
        """Steps of a sequence."""
        return self.height * self.width


@dataclass(frozen=True)
class Rows:
    """One pass: a program walks ``channels`` sequences of a group from end to end, ``length`` steps at a time, ``stages`` - 1 ahead."""

    channels: int
    length: int
    warps: int
    stages: int = 2


@dataclass(frozen=True)
class Tiles:
    """Two levels: the map is cut into tiles of ``height`` x ``width``, each a program for ``channels`` channels.

    A row or column inside a tile is a segment: its end states are found first, chained over the tiles, and then entered again.
    """

    channels: int
    height: int
    width: int
    warps: int

    def down(self, shape: Shape) -> int:
        """Tiles over the height."""
        return ceil(shape.height / self.height)

    def across(self, shape: Shape) -> int:
        """Tiles over the width."""
        return ceil(shape.width / self.width)

    def count(self, shape: Shape) -> int:
        """Tiles of a map."""
        return self.down(shape) * self.across(shape)

    def segments(self, shape: Shape) -> int:
        """Segments of a sequence, the largest number over the directions."""
        along_rows, along_columns = shape.height * self.across(shape), shape.width * self.down(shape)
        return max(along_rows, along_columns) if shape.directions > 1 else along_rows


@dataclass(frozen=True)
class Backward:
    """The backward's cut: tiles, ``states`` a pass, and the channels of a group split over ``splits`` programs."""

    tiles: Tiles
    states: int
    splits: int


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def plan_forward(shape: Shape, multiprocessors: int) -> Rows | Tiles:
    """One pass where the rows fill the GPU by themselves, two levels where they do not, or have too many states for registers.

    One pass moves the fewest bytes (``forward_bytes``); a long lone sequence would leave all but one multiprocessor idle.
    """
    if shape.directions > 1:
        return _plan_cross(shape)
    lone = shape.width > LINE and shape.rows < LEAST_FILL * multiprocessors
    if lone or shape.states > ROW_STATES:
        return Tiles(1, 1, LINE, warps=4)
    return _plan_rows(shape, multiprocessors)


def _plan_rows(shape: Shape, multiprocessors: int) -> Rows:
    states = power_of_two(shape.states)
    plenty = shape.rows >= 4 * multiprocessors
    elements = 2048 if plenty else 4096
    channels = _channel_tile(shape.channels) if plenty and states == 1 else 1
    length = min(elements // (channels * states), max(power_of_two(shape.width), 32))
    return Rows(channels, length, warps=max(1, min(channels * states * length // 256, 16)), stages=3 if plenty else 2)


def _plan_cross(shape: Shape) -> Tiles:
    """Larger tiles where there are more states: their segments are longer, so fewer states pass through memory."""
    channels = _channel_tile(shape.channels) if shape.states == 1 else 1
    height, width = _map_tile(shape, 2048 // channels)
    return Tiles(channels, height, width, warps=max(4, min(channels * height * width // 256, 8)))


def plan_backward(shape: Shape, multiprocessors: int) -> Backward:
    """The backward always has two levels: it recomputes the states of a tile from where they enter it.

    A program adds up the gradients of B and C over its channels in registers, so the channels are split no finer than filling the GPU asks.
    """
    states = min(power_of_two(shape.states), BACKWARD_STATES)
    height, width = _map_tile(shape, BACKWARD_ELEMENTS // states if states > 1 else 1024)
    tiles = Tiles(1, height, width, warps=max(4, min(states * height * width // 256, 8)))
    programs = shape.batch * shape.groups * tiles.count(shape)
    wanted = ceil(PROGRAMS_PER_MULTIPROCESSOR * multiprocessors / programs)
    return Backward(tiles, states, max(1, min(wanted, shape.channels)))


def _map_tile(shape: Shape, elements: int) -> tuple[int, int]:
    """A tile as wide as high, or twice as wide; longer where the map has less height or width than that."""
    if shape.height == 1:
        return 1, min(elements, max(power_of_two(shape.width), 32))
    height = min(1 << ((elements.bit_length() - 1) // 2), power_of_two(shape.height))
    width = min(elements // height, power_of_two(shape.width))
    return min(elements // width, power_of_two(shape.height)), width


def _channel_tile(channels: int) -> int:
    """Channels that share one load of B and C; more would cost the registers that a second program on the multiprocessor needs."""
    return min(2, channels)


def ideal_bytes(shape: Shape, element: int) -> int:
    """Bytes a forward scan cannot do without: each of u, delta, B, C read once and y written once; ``element`` is bytes a number."""
    maps = shape.batch * shape.plane
    u_and_y = 2 * shape.groups * shape.channels
    delta = shape.directions * shape.groups * shape.channels
    b_and_c = 2 * shape.directions * shape.groups * shape.states
    return maps * (u_and_y + delta + b_and_c) * element


def forward_bytes(shape: Shape, plan: Rows | Tiles, element: int, work: int = 4) -> int:
    """Bytes ``plan`` asks of the memory, B and C counted once (their other readers run side by side and find them in the L2 cache).

    Two levels read u, delta and B twice and pass the states of the segments: written, chained (read, written) and entered; and once,
    without states, the total steps.
    """
    if isinstance(plan, Rows):
        return ideal_bytes(shape, element)
    channels = shape.groups * shape.channels
    again = channels * (1 + shape.directions) + shape.directions * shape.groups * shape.states
    return ideal_bytes(shape, element) + shape.batch * shape.plane * again * element + _state_bytes(shape, plan, work)


def backward_bytes(shape: Shape, plan: Backward, element: int, work: int = 4) -> int:
    """Bytes the backward asks of the memory, caches aside.

    Everything once for the states; then u, delta and dy in every pass (a direction and some states), du and ddelta written in every
    pass and read again in all but their first; the parts of the gradients of B and C, written and summed.
    """
    maps, channels, groups = shape.batch * shape.plane, shape.groups * shape.channels, shape.directions * shape.groups
    passes = ceil(shape.states / plan.states)
    b_and_c = 2 * groups * shape.states
    inputs = channels * (2 + shape.directions + 3 * shape.directions * passes) + 2 * b_and_c
    du = channels * (2 * shape.directions * passes - 1)
    ddelta = channels * shape.directions * (2 * passes - 1)
    parts = (2 * plan.splits * work + element) * b_and_c
    return maps * ((inputs + du + ddelta) * element + parts) + 2 * _state_bytes(shape, plan.tiles, work)


def _state_bytes(shape: Shape, tiles: Tiles, work: int) -> int:
    return (4 * shape.states + 2) * shape.rows * tiles.segments(shape) * work


def unfused_cross_bytes(shape: Shape, element: int) -> int:
    """Bytes of the same block with stored permutations: u written four times over, one plain scan of all directions, y merged."""
    u = shape.batch * shape.channels * shape.plane * element
    scan = ideal_bytes(Shape(shape.batch, shape.directions, shape.channels, shape.states, 1, shape.plane), element)
    return (1 + shape.directions) * u + scan + (shape.directions + 1) * u
