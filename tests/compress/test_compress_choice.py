"""Which units go, against a ranking written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segc.compress.choice import MOST, choose
from segc.compress.groups import Group


def _group(scores: Any, kind: str = "a", size: int = 1) -> Group:
    values = torch.tensor(np.array(scores, np.float32))
    return Group("layer", [], [[number] for number in range(len(values))], values, kind, "channel", size)


def test_local_global_and_isomorphic_rankings_differ() -> None:
    groups = [_group([1, 2, 3, 4]), _group([10, 20, 30, 40], "a"), _group([0.1, 0.2, 50, 60], "b")]
    assert choose(groups, 0.5, "local") == [[0, 1], [0, 1], [0, 1]]
    assert choose(groups, 0.5, "global") == [[0, 1, 2], [], [0, 1]], "the first group keeps its last tenth"
    assert choose(groups, 0.5, "isomorphic") == [[0, 1, 2], [], [0, 1]]
    assert choose(groups[1:], 0.25, "isomorphic") == [[0], [0]] and choose(groups[1:], 0.25, "global") == [[], [0, 1]]


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.sampled_from(["local", "global", "isomorphic"]),
    st.sampled_from([1, 4, 8]),
)
def test_the_weakest_go_and_widths_are_multiples(scores: list[list[float]], ratio: float, scope: str, round_to: int) -> None:
    groups = [_group(values, "ab"[number % 2]) for number, values in enumerate(scores)]
    for group, removed in zip(groups, choose(groups, ratio, scope, round_to), strict=True):
        values, count = group.scores.numpy(), len(group.units)
        left = sorted(set(range(count)) - set(removed))
        assert left and len(removed) <= max(MOST * count, count - round_to)
        assert not removed or values[removed].max() <= values[left].min(), "no unit that stays is worth less"
        assert not removed or len(left) % round_to == 0 or round_to == 1
        if scope == "local" and round_to == 1:
            assert len(removed) == min(int(ratio * count), int(MOST * count))


@given(st.lists(st.integers(0, 10**6), min_size=12, max_size=60, unique=True), st.floats(0.01, 0.5))
def test_one_ranking_removes_what_was_asked(values: list[int], ratio: float) -> None:
    groups = [_group(values[:5]), _group(values[5:])]
    removed = choose(groups, ratio, "global")
    weakest = set(np.argsort(values)[: int(ratio * len(values))].tolist())
    found = set(removed[0]) | {number + 5 for number in removed[1]}
    assert found == weakest or len(found & {0, 1, 2, 3, 4}) == int(MOST * 5)


@pytest.mark.parametrize(("size", "left"), [(1, 8), (4, 12), (8, 11)])
def test_units_of_several_channels_are_rounded_by_their_channels(size: int, left: int) -> None:
    removed = choose([_group(np.arange(20), size=size)], 0.45, "local", 8)
    assert removed == [list(range(20 - left))]


def test_groups_narrower_than_the_multiple_stay_whole() -> None:
    assert choose([_group([1, 2, 3, 4, 5, 6])], 0.9, "local", 8) == [[]]
