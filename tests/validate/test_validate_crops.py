"""Worst crops against sums taken window by window."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segc.validate.crops import SIDE, worst_crops


def lost_in(label: np.ndarray, before: np.ndarray, after: np.ndarray, top: int, left: int, side: int) -> int:
    """Pixel by pixel, as a person would count."""
    total = 0
    for y in range(top, top + side):
        for x in range(left, left + side):
            if label[y, x] != 255:
                total += int(before[y, x] == label[y, x]) - int(after[y, x] == label[y, x])
    return total


@given(st.integers(0, 2**32 - 1), st.integers(8, 20), st.integers(8, 20))
def test_the_first_crop_is_the_worst_window_there_is(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    before, after = (rng.integers(0, 3, (height, width)).astype(np.uint8) for _ in range(2))
    side = round(SIDE * min(height, width))
    windows = [(top, left) for top in range(height - side + 1) for left in range(width - side + 1)]
    most = max(lost_in(label, before, after, top, left, side) for top, left in windows)
    found = worst_crops(label, before, after, 255, 3)
    assert bool(found) == (most > 0)
    for crop in found:
        assert crop.lost == lost_in(label, before, after, crop.top, crop.left, crop.side) and crop.side == side
    assert not found or found[0].lost == most
    for index, crop in enumerate(found):
        assert all(abs(crop.top - other.top) >= side or abs(crop.left - other.left) >= side for other in found[:index])


def test_what_was_won_counts_against_what_was_lost() -> None:
    label = np.zeros((16, 16), np.uint8)
    before, after = np.ones_like(label), np.zeros_like(label)
    assert worst_crops(label, before, after, 255, 2) == []
    before[:, 8:] = 0
    after[2:6, 9:13] = 1
    (crop,) = worst_crops(label, before, after, 255, 1)
    assert (crop.top, crop.left, crop.side, crop.lost) == (2, 9, 4, 16)
    assert crop.of(after).all()
