"""Pictures of trials as self-contained SVG: bars of a sensitivity, points of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

_INK, _PAPER, _GRID = "#1f2937", "#ffffff", "#d1d5db"
_BLUE, _ORANGE, _GREEN, _RED = "#2563eb", "#ea580c", "#15803d", "#b91c1c"
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def sensitivity_svg(found: dict[str, Any]) -> str:
    """Drop and milliseconds of every block of a ``segc.pipeline.sensitivity.sensitivity`` result."""
    records = found["blocks"]
    names = [record["block"] for record in records]
    left, panel, row, top = 10 + 7 * max(map(len, names)), 330, 34, 70
    drops = [(record["only_int8"]["drop"], record["only_float"]["regained"]) for record in records]
    times = [(record["only_int8"]["saved_ms"], record["only_float"]["cost_ms"]) for record in records]
    height = top + row * len(names) + 30
    parts = [
        _text(10, 22, f"Sensitivity of {len(names)} blocks: {found['dataset']}, {found['backend']}", weight="bold"),
        *_legend(left, 42, (("only it in int8: points lost, ms saved", _BLUE), ("only it in float: points regained, ms added", _ORANGE))),
        *(_text(left - 8, top + row * index + 20, name, anchor="end") for index, name in enumerate(names)),
        *_bars(drops, left, top, panel, row, "points of mIoU"),
        *_bars(times, left + panel + 40, top, panel, row, "milliseconds"),
    ]
    return _svg(left + 2 * panel + 70, height, parts)


def pareto_svg(result: dict[str, Any], winner: str) -> str:
    """Drop with its upper end against latency, a point for every attempt of a stored search, the budget and the Pareto front."""
    attempts = result["attempts"]
    left, top, width, height = 60.0, 70.0, 560.0, 360.0
    across = _Axis([each["ms"] for each in attempts], left, left + width)
    up = _Axis([0.0, result["max_drop"], *(each[key] for each in attempts for key in ("drop", "upper"))], top + height, top)
    budget = up(result["max_drop"])
    parts = [
        _text(10, 22, f"{len(attempts)} attempts: {result['dataset']}, {result['backend']}", weight="bold"),
        *_legend(left, 42, (("within the budget", _GREEN), ("not surely within", _RED), ("Pareto front", _BLUE))),
        *_grid(across, up),
        f'<line x1="{left}" y1="{budget:.1f}" x2="{left + width}" y2="{budget:.1f}" stroke="{_RED}" stroke-dasharray="6 4"/>',
        _text(left + width - 4, budget - 5, f"budget {result['max_drop']:g}", anchor="end", size=10),
        _front(attempts, across, up),
        *(part for each in attempts for part in _point(each, result["max_drop"], each["name"] == winner, across, up)),
        _text(left + width / 2, top + height + 36, "median engine latency, ms", anchor="middle"),
        _text(10, top - 10, "points of mIoU lost; the line goes up to the end of the 95 % interval", size=10),
    ]
    return _svg(left + width + 30, top + height + 50, parts)


class _Axis:
    """Values to pixels, with some room at both ends, and round marks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        room = 0.08 * (max(values) - min(values)) or 0.5
        self.low, self.high = min(values) - room, max(values) + room
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        """Some four to ten multiples of 1, 2 or 5 times a power of ten."""
        power = 10 ** floor(log10((self.high - self.low) / 4))
        step = next(power * factor for factor in (5, 2, 1) if (self.high - self.low) / (power * factor) >= 4)
        return [index * step for index in range(ceil(self.low / step), floor(self.high / step) + 1)]


def _grid(across: _Axis, up: _Axis) -> Iterable[str]:
    for value in across.marks():
        x = across(value)
        yield f'<line x1="{x:.1f}" y1="{up.end}" x2="{x:.1f}" y2="{up.start}" stroke="{_GRID}"/>'
        yield _text(x, up.start + 16, f"{value:g}", anchor="middle", size=10)
    for value in up.marks():
        y = up(value)
        yield f'<line x1="{across.start}" y1="{y:.1f}" x2="{across.end}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield _text(across.start - 6, y + 4, f"{round(value, 6):g}", anchor="end", size=10)


def _point(each: dict[str, Any], budget: float, wins: bool, across: _Axis, up: _Axis) -> Iterable[str]:
    """An attempt; its name shows when it is pointed at, the winner's and those of whole precisions always."""
    x, y, colour = across(each["ms"]), up(each["drop"]), _GREEN if each["upper"] <= budget else _RED
    yield f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{up(each["upper"]):.1f}" stroke="{colour}"/>'
    told = f"{each['name']}: {each['drop']:+.2f} points, at most {each['upper']:+.2f}, {each['ms']:.2f} ms"
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if wins else 4}" fill="{colour}"><title>{escape(told)}</title></circle>'
    label = each["name"] if each["name"] in ("all int8", "fp16", "fp32") else ""
    if label:
        yield _text(x + 9, y - 7, label, size=11)
    if wins:
        yield _text(x + 9, y + 17, "winner", size=11, weight="bold")


def _front(attempts: Sequence[dict[str, Any]], across: _Axis, up: _Axis) -> str:
    """Stairs through the attempts that no other one beats in both drop and latency."""
    corners: list[tuple[float, float]] = []
    for each in sorted(attempts, key=lambda each: (each["ms"], each["drop"])):
        if corners and each["drop"] >= corners[-1][1]:
            continue
        if corners:
            corners.append((each["ms"], corners[-1][1]))
        corners.append((each["ms"], each["drop"]))
    points = " ".join(f"{across(ms):.1f},{up(drop):.1f}" for ms, drop in corners)
    return f'<polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>'


def _bars(values: Sequence[tuple[float, float]], left: float, top: float, width: float, row: float, unit: str) -> Iterable[str]:
    """Two bars a row from a common zero."""
    flat = [value for pair in values for value in pair]
    low, high = min(0.0, *flat), max(0.0, *flat)
    low, high = (low, high) if high > low else (0.0, 1.0)
    scale = (width - 90) / (high - low)
    zero = left + 45 - low * scale
    bottom = top + row * len(values)
    yield f'<line x1="{zero:.1f}" y1="{top}" x2="{zero:.1f}" y2="{bottom}" stroke="{_INK}"/>'
    yield _text(left + width / 2, bottom + 18, unit, anchor="middle")
    for index, pair in enumerate(values):
        for place, (value, colour) in enumerate(zip(pair, (_BLUE, _ORANGE), strict=True)):
            y = top + row * index + 3 + 14 * place
            start, length = zero + min(value, 0.0) * scale, abs(value) * scale
            yield f'<rect x="{start:.1f}" y="{y}" width="{length:.1f}" height="12" fill="{colour}"/>'
            end, anchor = (start + length + 4, "start") if value >= 0 else (start - 4, "end")
            yield _text(end, y + 10, f"{value:+.2f}", anchor=anchor, size=10)


def _legend(x: float, y: float, entries: Iterable[tuple[str, str]]) -> Iterable[str]:
    for name, colour in entries:
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        yield _text(x + 18, y, name)
        x += 30 + 6.6 * len(name)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text {place} fill="{_INK}">{escape(text)}</text>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT}>'
    return "\n".join([frame, f'<rect width="100%" height="100%" fill="{_PAPER}"/>', *parts, "</svg>", ""])
