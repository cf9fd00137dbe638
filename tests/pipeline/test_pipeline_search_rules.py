"""The choice of float blocks on synthetic cost models: never over the budget, the optimum where it is known, few trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import ceil, log2

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from segc.pipeline.search_rules import Bound, Candidate, Floats, best, explore, missed

BASE_MS = 40.0  # so that a millisecond is more than what counts as the same latency

models = st.integers(1, 7).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(0, 50), min_size=count, max_size=count),  # drop of each block in int8
        st.lists(st.sampled_from([-4.0, -1.0, 1.0, 2.0, 5.0]), min_size=count, max_size=count),  # ms of each block in float
        st.integers(0, 10),  # half a width of the interval
        st.integers(0, 200),  # budget
    )
)


class Separable:
    """Drops and milliseconds add up over blocks; what was asked for is counted."""

    def __init__(self, drops: Sequence[float], costs: Sequence[float], margin: float) -> None:
        self.drops = {f"b{index}": float(drop) for index, drop in enumerate(drops)}
        self.costs = dict(zip(self.drops, costs, strict=True))
        self.margin = margin
        self.asked: list[Floats] = []

    def bounds(self, sets: Sequence[Floats]) -> list[Bound]:
        assert sets, "it asks for nothing"
        self.asked += sets
        return [Bound(self.drop(floats), self.upper(floats)) for floats in sets]

    def drop(self, floats: Floats) -> float:
        return sum(drop for block, drop in self.drops.items() if block not in floats)

    def upper(self, floats: Floats) -> float:
        return self.drop(floats) + self.margin * (floats != self.drops.keys())

    def ms(self, floats: Floats) -> float:
        return BASE_MS + sum(self.costs[block] for block in floats)

    def every_set(self) -> list[Floats]:
        return [frozenset(names) for size in range(len(self.drops) + 1) for names in combinations(self.drops, size)]

    def winner(self, max_drop: float) -> tuple[Candidate, Floats]:
        """As the search takes it: of what was tried, and of all in float."""
        tried = [*explore(self.costs, self.bounds, max_drop), frozenset(self.drops)]
        candidates = [Candidate(floats != self.drops.keys(), self.upper(floats), self.ms(floats)) for floats in tried]
        found = best(candidates, max_drop)
        assert found is not None
        return found, tried[candidates.index(found)]


@example(([1, 4, 4, 0], [1.0, 5.0, 5.0, 1.0], 0, 1))  # the first block goes back when the two that cost more are in float
@given(models)
def test_within_the_budget_and_nothing_could_go_back_to_int8(model: tuple) -> None:
    drops, costs, margin, budget = model
    truth = Separable(drops, costs, margin)
    found, floats = truth.winner(budget)
    assert found.upper <= budget
    for block in floats if found.int8 else ():
        back = floats - {block}
        assert truth.upper(back) > budget or truth.ms(back) >= truth.ms(floats), "a block is in float for nothing"


@given(models, st.floats(0.5, 9))
def test_the_optimum_where_blocks_cost_the_same(model: tuple, cost: float) -> None:
    drops, costs, margin, budget = model
    truth = Separable(drops, [min(each, 0.0) or cost for each in costs], margin)
    assume(any(each > 0 for each in truth.costs.values()))
    optimum = min(truth.ms(floats) for floats in truth.every_set() if truth.upper(floats) <= budget)
    assert truth.winner(budget)[0].ms <= 1.01 * optimum


@given(models)
def test_few_trials_and_none_twice(model: tuple) -> None:
    drops, costs, margin, budget = model
    truth = Separable(drops, costs, margin)
    truth.winner(budget)
    assert len(truth.asked) == len(set(truth.asked))
    assert len(truth.asked) <= 2 + 2 * len(drops) + ceil(log2(len(drops) + 1))


@given(st.integers(0, 2**32), st.integers(1, 7), st.floats(0, 1))
def test_drops_that_do_not_add_up_never_break_the_budget(seed: int, count: int, budget: float) -> None:
    random = np.random.default_rng(seed)
    names = [f"b{index}" for index in range(count)]

    def bounds(sets: Sequence[Floats]) -> list[Bound]:
        return [Bound(drop, drop + random.random()) for drop in random.normal(0.5, 0.5, len(sets))]

    tried = explore(dict(zip(names, random.normal(1, 2, count), strict=True)), bounds, budget)
    candidates = [Candidate(True, bound.upper, random.random()) for bound in tried.values()]
    found = best([*candidates, Candidate(False, 0.0, 0.5)], budget)
    assert found is not None and found.upper <= budget
    fitting = [each.ms for each in candidates if each.upper <= budget]
    assert found.ms <= 1.01 * min([*fitting, 0.5])


def test_greedy_takes_what_regains_most_for_its_time() -> None:
    """Worked by hand: b0 regains 6 for 6 ms, b1 5 for 1 ms, b2 1 for 2 ms."""
    truth = Separable([6, 5, 1], [6.0, 1.0, 2.0], 0)
    assert truth.winner(7)[1] == {"b1"}
    assert truth.winner(6)[1] == {"b0"}, "b1 and b0 are enough, then b1 goes back; b1 and b2 would be faster: greedy is not exact"
    assert truth.winner(0.5)[1] == {"b0", "b1", "b2"}


def test_blocks_that_are_slower_in_int8_go_back_first() -> None:
    truth = Separable([3, 3, 3], [-5.0, 1.0, 1.0], 0)
    assert truth.winner(6)[1] == {"b0"} and truth.asked == [frozenset(), {"b0"}]


def test_where_every_block_is_slower_in_int8_nothing_else_is_scored() -> None:
    truth = Separable([3, 3], [-5.0, -1.0], 0)
    assert truth.winner(100)[1] == {"b0", "b1"} and truth.asked == [frozenset()]


def test_of_equal_latencies_the_safest_wins() -> None:
    fast, safe, slow = Candidate(True, 0.5, 10.0), Candidate(True, 0.1, 10.05), Candidate(True, 0.0, 12.0)
    assert best([fast, safe, slow], 0.5) is safe and best([fast], 0.4) is None


def test_missed() -> None:
    full: Callable[..., Candidate | None] = lambda *int8: missed([Candidate(False, 0.0, 10.0), *int8], 10.0, 0.5)  # noqa: E731
    near, far = Candidate(True, 0.7, 5.0), Candidate(True, 2.0, 4.0)
    assert full(far, near) is near
    assert full(far, near, Candidate(True, 0.4, 9.0)) is None, "the budget is kept"
    assert full(Candidate(True, 0.7, 9.9)) is None, "int8 is not faster: the budget is not what is in the way"
