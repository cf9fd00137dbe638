"""The fastest precision of every block whose drop surely stays inside a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from segc.core.errors import UserError
from segc.core.rows import Row, environment
from segc.pipeline.attempts import BOOTSTRAP, Accuracy, Attempts, Precisions
from segc.pipeline.reasons import reasons
from segc.pipeline.search_rules import FASTER, SAME_LATENCY, Bound, Candidate, Floats, best, explore, missed
from segc.validate.intervals import drop_row

# Name, precisions and what was lost; None for fp32, which loses nothing.
_Scored = tuple[str, dict[str, str], Accuracy | None]


@dataclass(frozen=True)
class Attempt(Candidate):
    """A candidate with its precisions; ``name`` says in words what it is, ``accuracy`` is None for fp32, which loses nothing."""

    name: str
    precisions: dict[str, str]
    accuracy: Accuracy | None

    @property
    def drop(self) -> float:
        """In points of mIoU."""
        return self.accuracy.drop.value if self.accuracy else 0.0

    @property
    def sqnr(self) -> float | None:
        """Of the logits, in dB; None for fp32 and for graphs that show no logits."""
        return self.accuracy.sqnr if self.accuracy else None

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        told = {"name": self.name, "drop": self.drop, "upper": self.upper, "ms": self.ms, "sqnr_db": self.sqnr}
        return {**told, "int8": self.int8, "precisions": self.precisions}


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    winner: the fastest attempt within the budget. nearest: where int8 is faster but never within the budget, the int8 attempt that comes
    nearest. why: where the answer is float, what keeps int8 from being faster.
    """

    attempts: list[Attempt]
    winner: Attempt
    nearest: Attempt | None
    why: list[str]
    float_ms: float
    result: dict[str, Any]


def search(attempts: Attempts, max_drop: float) -> Found:
    """Find the fastest assignment of precisions whose drop stays inside ``max_drop`` points of mIoU with 95 % confidence.

    What int8 leaves in float is fp16 where the backend runs the fp16 graph faster than the fp32 one, else fp32. How blocks are chosen:
    ``segc.pipeline.search_rules``. Latencies are measured when nothing is being scored.

    Raises:
        UserError: a budget below 0, or not a number; see ``Attempts``.
    """
    if not 0 <= max_drop < float("inf"):
        raise UserError(f"--max-drop is {max_drop:g}; expected points of mIoU, 0 or more.", "--max-drop 0.5")
    half, about_half = _half(attempts)
    names = (attempts.all_in("int8-fp16"), "fp16") if half else ({}, "fp32")
    tried = _explore(attempts, max_drop, *names)
    rows: list[_Scored] = [
        (_name(floats, len(attempts.blocks), names[1]), _assignment(floats, *names), accuracy) for floats, accuracy in tried.items()
    ]
    rows += [("fp16", attempts.all_in("fp16"), attempts.accuracy([attempts.all_in("fp16")], "scoring fp16")[0])] if half else []
    rows += [("fp32", attempts.all_in("fp32"), None)]
    made = _timed(attempts, rows)
    floats = [each for each in made if not each.int8]
    float_ms = min(each.ms for each in floats if each.upper <= max_drop)
    winner, nearest = best(made, max_drop), missed(made, float_ms, max_drop)
    assert winner, "fp32 loses nothing, so that it is within every budget"
    why = [] if winner.int8 or nearest else [*reasons(attempts.model, attempts.graph({}), attempts.backend), about_half]
    return Found(made, winner, nearest, why, float_ms, _result(attempts, made, max_drop, about_half))


def _half(attempts: Attempts) -> tuple[bool, str]:
    """Whether the backend runs the fp16 graph faster than the fp32 one, and that in words."""
    try:
        timing = attempts.timing([attempts.all_in("fp16")])[0]
    except UserError as error:
        return False, f"fp16 does not run on {attempts.backend}: {error.message}"
    faster = timing.ms <= FASTER * timing.references[0]
    told = "faster" if faster else "not faster"
    return faster, f"fp16 is {told} than fp32 on {attempts.backend}: {timing.ms:.2f} ms against {timing.references[0]:.2f} ms"


def _explore(attempts: Attempts, max_drop: float, lowest: Precisions, full: str) -> dict[Floats, Accuracy]:
    """Every set of float blocks that was scored, in order."""
    base, *singles = attempts.timing([lowest, *(_assignment(frozenset({block}), lowest, full) for block in attempts.blocks)])
    share = base.ms / base.references[1]
    costs = {block: _cost(timing.ms, share * timing.references[1]) for block, timing in zip(attempts.blocks, singles, strict=True)}
    scored: dict[Floats, Accuracy] = {}

    def bounds(sets: Sequence[Floats]) -> list[Bound]:
        found = attempts.accuracy([_assignment(floats, lowest, full) for floats in sets], "scoring graphs")
        scored.update(zip(sets, found, strict=True))
        return [Bound(accuracy.drop.value, accuracy.drop.high) for accuracy in found]

    explore(costs, bounds, max_drop)
    return scored


def _cost(ms: float, lowest_ms: float) -> float:
    """Milliseconds that a block in float costs; 0 where that is less than medians differ by chance."""
    return ms - lowest_ms if abs(ms - lowest_ms) > SAME_LATENCY * lowest_ms else 0.0


def _assignment(floats: Floats, lowest: Precisions, full: str) -> dict[str, str]:
    return {**lowest, **dict.fromkeys(sorted(floats), full)}


def _name(floats: Floats, blocks: int, full: str) -> str:
    return f"{blocks - len(floats)} of {blocks} blocks int8, {full}: {', '.join(sorted(floats))}" if floats else "all int8"


def _timed(attempts: Attempts, rows: Sequence[_Scored]) -> list[Attempt]:
    """Attempts with their latencies, each as a share of fp32's in the same rounds times the median of fp32's."""
    timings = attempts.timing([precisions for _, precisions, _ in rows])
    scale = median(timing.references[0] for timing in timings)
    return [
        Attempt(
            int8=any(precisions.get(block, "int8").startswith("int8") for block in attempts.blocks),
            upper=accuracy.drop.high if accuracy else 0.0,
            ms=scale * timing.ms / timing.references[0],
            name=name,
            precisions=precisions,
            accuracy=accuracy,
        )
        for (name, precisions, accuracy), timing in zip(rows, timings, strict=True)
    ]


def _result(attempts: Attempts, made: Sequence[Attempt], max_drop: float, about_half: str) -> dict[str, Any]:
    conditions = {**attempts.conditions, "max_drop": max_drop}
    images, rows = len(attempts.images), []
    for each in made:
        own = {**conditions, "attempt": each.name, "precisions": each.precisions}
        rows.append(drop_row("drop mIoU", each.drop, each.accuracy.drop if each.accuracy else None, images, own, BOOTSTRAP))
        rows.append(Row(metric="engine_p50", value=each.ms, unit="ms", n=attempts.runs, conditions=own))
    return {
        "kind": "search",
        "backend": attempts.backend,
        "dataset": attempts.dataset_name,
        "max_drop": max_drop,
        "fp16": about_half,
        "attempts": [each.as_json() for each in made],
        "rows": [row.model_dump() for row in rows],
        "environment": environment(),
    }
