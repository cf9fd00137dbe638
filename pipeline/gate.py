"""The verdicts of a run: is the network better than guessing, is a compressed graph still exact, which one is the fastest of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A graph on a backend: its mIoU in percent, latency p50 in milliseconds and file size in bytes."""

    precision: str
    backend: str
    miou: float
    p50_ms: float
    size: int

    @property
    def preferred(self) -> dict[str, str]:
        """As ``Manifest.preferred`` holds it."""
        return {"precision": self.precision, "backend": self.backend}


def choose(candidates: Iterable[Candidate], reference_miou: float, max_drop: float) -> Candidate | None:
    """The fastest candidate whose mIoU is at most ``max_drop`` points below the reference; None when there is none."""
    exact = [each for each in candidates if reference_miou - each.miou <= max_drop]
    return min(exact, key=lambda each: each.p50_ms, default=None)


def failures(miou: Mapping[str, float], guesses: Mapping[str, float], max_drop: float, min_gain: float) -> list[str]:
    """Why the run fails, one sentence each; empty when it passes. ``miou``: worst of each precision made, in percent."""
    best = max(guesses, key=lambda name: guesses[name])
    gain, drop = miou["fp32"] - guesses[best], miou["fp32"] - miou.get("int8", miou["fp32"])
    found = []
    if gain < min_gain:
        found.append(f"fp32 mIoU {miou['fp32']:.2f} % is not {min_gain:g} points above the {best} baseline ({guesses[best]:.2f} %)")
    if drop > max_drop:
        found.append(f"int8 loses {drop:.2f} points of mIoU, allowed are {max_drop:g}")
    return found


def worst(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The lowest mIoU of each precision over its backends."""
    found: dict[str, float] = {}
    for each in candidates:
        found[each.precision] = min(each.miou, found.get(each.precision, each.miou))
    return found
