"""Intervals of a drop as result rows, as fields of the class table, and in words."""

from __future__ import annotations

from typing import Any

from segc.core.rows import Row
from segc.validate.bootstrap import MEANS, Bootstrap, Drops, Interval
from segc.validate.metrics import Summary

FEW_IMAGES = 100


class DropRow(Row):
    """A drop in points with its bootstrap interval; ``p_value`` is two-sided, that of no drop at all."""

    ci_low: float
    ci_high: float
    p_value: float
    distinguishable: bool


def drop_rows(
    reference: Summary, target: Summary, drops: Drops | None, n: int, conditions: dict[str, Any], options: Bootstrap | None
) -> list[Row]:
    """Rows ``drop mIoU``, ``drop mAcc`` and ``drop aAcc``: with intervals where there are any."""
    pairs = zip((reference.miou, reference.macc, reference.aacc), (target.miou, target.macc, target.aacc), strict=True)
    return [
        drop_row(f"drop {metric}", before - after, drops.means.get(metric) if drops else None, n, conditions, options)
        for metric, (before, after) in zip(MEANS, pairs, strict=True)
    ]


def drop_row(metric: str, value: float, found: Interval | None, n: int, conditions: dict[str, Any], options: Bootstrap | None) -> Row:
    """One drop in points, with its interval where there is one."""
    if found is None or options is None:
        return Row(metric=metric, value=value, unit="points", n=n, conditions=conditions)
    return DropRow(
        metric=metric,
        value=value,
        unit="points",
        n=n,
        conditions={**conditions, **options.conditions()},
        ci_low=found.low,
        ci_high=found.high,
        p_value=found.p,
        distinguishable=found.distinguishable,
    )


def class_fields(found: Interval | None) -> dict[str, Any]:
    """The interval of a class's drop, as the class table holds it; ``p_adjusted`` is Holm's over the table, and so is the verdict."""
    if found is None:
        return dict.fromkeys(("drop_low", "drop_high", "p_value", "p_adjusted", "distinguishable", "draws"))
    return {
        "drop_low": found.low,
        "drop_high": found.high,
        "p_value": found.p,
        "p_adjusted": found.p_adjusted,
        "distinguishable": found.distinguishable,
        "draws": found.draws,
    }


def few_images_notice(n: int) -> list[str]:
    """The caveat of a bootstrap over few images, as a list of no or one sentence."""
    if n >= FEW_IMAGES:
        return []
    return [f"intervals rest on {n} image{'s' if n != 1 else ''}: under {FEW_IMAGES}, they tend to be narrower than they say"]


def interval_text(row: dict[str, Any]) -> str:
    """``95 % CI -0.10 to +0.52`` of a stored drop row, and that it is no proof of a drop where it is none; empty without an interval."""
    if row.get("ci_low") is None:
        return ""
    level = f"{100 * row['conditions']['confidence']:g} % CI {row['ci_low']:+.2f} to {row['ci_high']:+.2f}"
    return level if row["distinguishable"] else f"{level}, not distinguishable from zero"
