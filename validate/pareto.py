"""Accuracy over latency as places in an SVG chart: a dot a measured target, a line through those that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 70.0, 980.0, 36.0, 320.0
_LETTER, _LINE, _GAP = 7.4, 16.0, 11.0  # width of a letter, height of a line, distance from the dot


def pareto_chart(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Dots, front and ticks of points with ``name``, ``ms`` and ``miou``; {} for less than two points.

    Latency on a logarithmic axis, because targets differ by factors.
    """
    if len(points) < 2:
        return {}
    left, right = _ends([math.log10(point["ms"]) for point in points], 0.05)
    low, high = _ends([point["miou"] for point in points], 0.2)
    points = sorted(points, key=lambda point: float(point["ms"]))
    best = on_front([(point["ms"], -point["miou"]) for point in points])
    placed = [
        {
            **point,
            "x": round(_along(math.log10(point["ms"]), left, right, LEFT, RIGHT), 1),
            "y": round(_along(point["miou"], low, high, BOTTOM, TOP), 1),
            "best": on,
        }
        for point, on in zip(points, best, strict=True)
    ]
    front = " ".join(f"{dot['x']},{dot['y']}" for dot in placed if dot["best"])
    _place_labels(placed)
    return {
        "dots": placed,
        "front": front,
        "x_ticks": [
            {"at": round(_along(math.log10(value), left, right, LEFT, RIGHT), 1), "text": f"{value:g}"}
            for value in _round_values(left, right)
        ],
        "y_ticks": [
            {"at": round(_along(value, low, high, BOTTOM, TOP), 1), "text": f"{value:.2f}"}
            for value in (low + (high - low) * step / 4 for step in range(5))
        ],
    }


def on_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Of every pair of costs, whether no other beats it: is as low in both and lower in one."""
    best, lowest = set(), math.inf
    for pair in sorted(set(costs)):
        if pair[1] < lowest:
            lowest = pair[1]
            best.add(pair)
    return [pair in best for pair in costs]


def _ends(values: Sequence[float], least: float) -> tuple[float, float]:
    """Ends of an axis a little beyond the values, at least ``least`` beyond."""
    room = max(0.12 * (max(values) - min(values)), least)
    return min(values) - room, max(values) + room


def _along(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * (value - low) / (high - low)


def _round_values(left: float, right: float) -> list[float]:
    """1, 1.5, 2, 3, 5 and 7 times powers of ten inside a logarithmic axis."""
    values = [factor * 10.0**power for power in range(math.floor(left), math.ceil(right) + 1) for factor in (1, 1.5, 2, 3, 5, 7)]
    return [value for value in values if left <= math.log10(value) <= right]


def _place_labels(dots: list[dict[str, Any]]) -> None:
    """A label beside its dot, on the side with room, and moved down where it would lie on one before it."""
    taken: list[tuple[float, float, float]] = []
    for dot in dots:
        width = _LETTER * len(dot["name"])
        dot["end"] = dot["x"] + width + _GAP > RIGHT
        left = dot["x"] - _GAP - width if dot["end"] else dot["x"] + _GAP
        dot["label_x"], dot["label_y"] = round(dot["x"] + (-_GAP if dot["end"] else _GAP), 1), dot["y"] - 9
        while any(left < to and start < left + width and abs(dot["label_y"] - y) < _LINE for start, to, y in taken):
            dot["label_y"] = round(dot["label_y"] + _LINE, 1)
        taken.append((left, left + width, dot["label_y"]))
