"""How scans are cut for a GPU: the choice between one pass and two levels, what it covers, and the bytes it moves."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.ops.triton_kernels.scan_plan import (
    Rows,
    Shape,
    Tiles,
    backward_bytes,
    forward_bytes,
    ideal_bytes,
    plan_backward,
    plan_forward,
    unfused_cross_bytes,
)

H100, ORIN = 132, 16
SEGMAN = Shape(1, 4, 32, 1, 1, 16384)
SEGMAN_CROSS = Shape(1, 1, 32, 1, 128, 128, directions=4)
VMAMBA = Shape(8, 4, 192, 16, 1, 3136)
LONG = Shape(1, 1, 8, 1, 1, 262144)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    cross = draw(st.booleans())
    groups, height = (1, draw(st.integers(1, 600))) if cross else (draw(st.integers(1, 8)), 1)
    width = draw(st.integers(1, 600 if cross else 262144))
    channels, states = draw(st.integers(1, 800)), draw(st.sampled_from([1, 2, 3, 16, 17, 64, 256]))
    return Shape(draw(st.integers(1, 64)), groups, channels, states, height, width, 0, 4 if cross else 1)


def test_enough_rows_go_in_one_pass_and_a_lone_sequence_in_two_levels() -> None:
    assert isinstance(plan_forward(SEGMAN, H100), Rows)
    assert isinstance(plan_forward(VMAMBA, H100), Rows)
    assert isinstance(plan_forward(LONG, H100), Tiles)
    assert isinstance(plan_forward(Shape(1, 1, 64, 1, 1, 262144), ORIN), Rows)
    assert isinstance(plan_forward(Shape(1, 1, 8, 1, 1, 300), H100), Rows)


def test_many_states_do_not_fit_the_registers_of_one_pass() -> None:
    assert isinstance(plan_forward(Shape(8, 4, 192, 17, 1, 3136), H100), Tiles)


@pytest.mark.parametrize("shape", [LONG, SEGMAN_CROSS, Shape(1, 1, 1, 16, 1, 262144)])
def test_two_levels_fill_the_gpu(shape: Shape) -> None:
    plan = plan_forward(shape, H100)
    assert isinstance(plan, Tiles)
    assert plan.count(shape) * ceil(shape.channels / plan.channels) >= H100


@given(shapes(), st.sampled_from([ORIN, H100]))
def test_plans_hold_to_what_a_program_can_have(shape: Shape, multiprocessors: int) -> None:
    forward, backward = plan_forward(shape, multiprocessors), plan_backward(shape, multiprocessors)
    if isinstance(forward, Rows):
        size, states = forward.channels * forward.length, 1 << (shape.states - 1).bit_length()
        assert size * states <= 4096 and forward.length & (forward.length - 1) == 0
    tiles = [plan for plan in (forward, backward.tiles) if isinstance(plan, Tiles)]
    for tile, states in zip(tiles[::-1], (backward.states, 1), strict=False):
        sides = (tile.channels, tile.height, tile.width, tile.warps, states)
        assert all(side & (side - 1) == 0 for side in sides)
        assert tile.channels * tile.height * tile.width * states <= 2048
        assert tile.down(shape) * tile.height >= shape.height and tile.across(shape) * tile.width >= shape.width
    assert 1 <= backward.splits <= shape.channels


@given(shapes())
def test_the_backward_splits_channels_only_until_the_gpu_is_full(shape: Shape) -> None:
    plan = plan_backward(shape, H100)
    programs = shape.batch * shape.groups * plan.tiles.count(shape)
    assert plan.splits == 1 or programs * (plan.splits - 1) < 2 * H100
    assert programs * plan.splits >= 2 * H100 or plan.splits == shape.channels


def test_ideal_bytes_of_segman() -> None:
    """u, delta and y of 128 rows, B and C of 4 groups, 16,384 steps, float32."""
    assert ideal_bytes(SEGMAN, 4) == (3 * 128 + 2 * 4) * 16384 * 4
    assert ideal_bytes(SEGMAN_CROSS, 4) == (2 * 32 + 128 + 2 * 4) * 16384 * 4


def test_one_pass_moves_the_ideal_and_two_levels_less_than_twice_that() -> None:
    assert forward_bytes(SEGMAN, plan_forward(SEGMAN, H100), 4) == ideal_bytes(SEGMAN, 4)
    assert ideal_bytes(LONG, 4) < forward_bytes(LONG, plan_forward(LONG, H100), 4) < 2 * ideal_bytes(LONG, 4)


def test_four_directions_in_one_move_less_than_stored_permutations() -> None:
    fused = forward_bytes(SEGMAN_CROSS, plan_forward(SEGMAN_CROSS, H100), 2)
    assert fused < 0.6 * unfused_cross_bytes(SEGMAN_CROSS, 2)


def test_the_backward_moves_more_than_its_inputs_and_gradients() -> None:
    plan = plan_backward(SEGMAN, H100)
    least = (128 * (1 + 1 + 1) + 2 * 4 + 128 * 2 + 2 * 4) * 16384 * 4  # u, delta, dy, B, C read; du, ddelta, dB, dC written
    assert least < backward_bytes(SEGMAN, plan, 4) < 3 * least
