"""Which units of which group go: by their scores, in one ranking or several, rounded to widths that hardware likes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch

from segc.compress.groups import Group

SCOPES = ("local", "global", "isomorphic")
# No group loses more than this share of its units: a layer that one ranking empties would cut the network in two.
MOST = 0.9


def choose(groups: Sequence[Group], ratio: float, scope: str, round_to: int = 1) -> list[list[int]]:
    """Numbers of the units that each group loses, ascending.

    Args:
        groups: what may be cut.
        ratio: share of all units to remove, 0 to 1.
        scope: units are ranked inside their group (``local``), among all (``global``), or among groups of the same structure
            (``isomorphic``, arXiv 2407.04616).
        round_to: the channels left of a group are a multiple of this, the nearest one, at least one of it; smaller groups stay whole.
    """
    pools: dict[object, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        pools[{"local": number, "global": 0, "isomorphic": group.kind}[scope]].append(number)
    removed: list[list[int]] = [[] for _ in groups]
    for numbers in pools.values():
        counts = _weakest([groups[number].scores for number in numbers], ratio)
        for number, count in zip(numbers, counts, strict=True):
            group = groups[number]
            left = _left(len(group.units), count, round_to // math.gcd(round_to, group.size))
            order = group.scores.argsort(stable=True)[: len(group.units) - left]
            removed[number] = sorted(order.tolist())
    return removed


def _weakest(scores: Sequence[torch.Tensor], ratio: float) -> list[int]:
    """How many of each pool member's units are among the lowest ``ratio`` of the pool."""
    owners = torch.cat([torch.full((len(values),), number) for number, values in enumerate(scores)])
    order = torch.cat(list(scores)).argsort(stable=True)
    taken = owners[order[: int(ratio * len(order))]]
    return torch.bincount(taken, minlength=len(scores)).tolist()


def _left(units: int, count: int, multiple: int) -> int:
    """Units that stay of ``units`` when about ``count`` shall go."""
    if count == 0 or units <= multiple > 1:
        return units
    left = max(units - count, units - int(MOST * units))
    return min(max(round(left / multiple), 1) * multiple, units)
