"""Which blocks to leave in float: greedily by what they regain for the time they cost, until the bound of the drop fits the budget.

Wu et al., Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation (2020), section 5, restore the most
sensitive layers until the accuracy is back; HAQ (Wang et al., 2019) and HAWQ-V3 (Yao et al., 2021) weigh accuracy against latency measured
on the device. Here both are measured, and the budget is held by the upper end of a confidence interval, not by the drop itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Blocks that stay in float.
Floats = frozenset[str]

# Medians nearer than this share are the same latency.
SAME_LATENCY = 0.01
# A graph is faster than float when it takes at most this share of its time.
FASTER = 0.98


@dataclass(frozen=True)
class Bound:
    """A drop in points and the upper end of its interval."""

    drop: float
    upper: float


@dataclass(frozen=True)
class Candidate:
    """A measured graph: whether any block of it is int8, the upper end of its drop in points, its latency in milliseconds."""

    int8: bool
    upper: float
    ms: float


Kind = TypeVar("Kind", bound=Candidate)


def explore(costs: Mapping[str, float], bounds: Callable[[Sequence[Floats]], Sequence[Bound]], max_drop: float) -> dict[Floats, Bound]:
    """Every set of float blocks that was tried, with its bound, in that order; those within the budget are candidates.

    First the blocks that are slower in int8 go back to float. If the bound is not within the budget then, the others follow in the order
    of the drop that each regains for the time it costs; the shortest sufficient beginning of that order is found by bisection, since a
    bound falls as blocks are added. At last each added block, the most costly first, is put back to int8 where the bound allows.

    Args:
        costs: block -> milliseconds that it costs to leave it alone in float; negative where int8 is slower.
        bounds: gives the bounds of several sets, measured; a set is asked for once.
        max_drop: the budget in points. All blocks in float count as within it and are not tried.
    """
    tried: dict[Floats, Bound] = {}

    def ask(*sets: Floats) -> list[Bound]:
        new = [each for each in dict.fromkeys(sets) if each not in tried]
        if new:
            tried.update(zip(new, bounds(new), strict=True))
        return [tried[each] for each in sets]

    def fits(floats: Floats) -> bool:
        return ask(floats)[0].upper <= max_drop

    base = frozenset(block for block, cost in costs.items() if cost < 0)
    if base == costs.keys():
        ask(Floats())
        return tried
    start = ask(Floats(), base)[1]
    if start.upper <= max_drop:
        return tried
    others = [block for block in costs if block not in base]
    singles = dict(zip(others, ask(*(base | {block} for block in others)), strict=True))
    order = sorted(others, key=lambda block: _worth(start.drop - singles[block].drop, costs[block]), reverse=True)
    count = _shortest(len(order), lambda length: fits(base | set(order[:length])))
    chosen = base | set(order[:count])
    for block in sorted(order[:count] if count < len(order) else [], key=lambda block: costs[block], reverse=True):
        chosen = chosen - {block} if fits(chosen - {block}) else chosen
    return tried


def best(candidates: Sequence[Kind], max_drop: float) -> Kind | None:
    """The fastest candidate within the budget; of those as fast as it, the one that surely loses least. None when none is within it."""
    within = [each for each in candidates if each.upper <= max_drop]
    if not within:
        return None
    limit = (1 + SAME_LATENCY) * min(each.ms for each in within)
    return min((each for each in within if each.ms <= limit), key=lambda each: (each.upper, each.ms))


def missed(candidates: Sequence[Kind], float_ms: float, max_drop: float) -> Kind | None:
    """Where int8 is faster than float but never within the budget: the int8 candidate that comes nearest to it. None otherwise."""
    faster = [each for each in candidates if each.int8 and each.ms <= FASTER * float_ms]
    if not faster or any(each.upper <= max_drop for each in faster):
        return None
    return min(faster, key=lambda each: each.upper)


def _worth(gain: float, cost: float) -> float:
    """Points regained for a millisecond; what costs nothing comes first, what regains nothing last."""
    return gain / cost if cost > 0 else gain * float("inf") if gain else 0.0


def _shortest(length: int, enough: Callable[[int], bool]) -> int:
    """The shortest beginning that is enough, when none is not and the whole is."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
