"""Lines over the frames of a video as points of an SVG chart, thinned where there are more frames than pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 60.0, 990.0, 12.0, 188.0
MOST_POINTS = 600


def timeline(series: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> dict[str, Any]:
    """Named lines of percentages, one value a frame, with the ticks of their axis; {} where no frame has a value.

    None where a frame has no value. With more frames than ``MOST_POINTS`` a point is the mean of its frames.
    """
    thinned = {name: _thinned(np.array(values, np.float64)) for name, values in series.items()}
    known = np.concatenate([values[~np.isnan(values)] for values in thinned.values()])
    if not known.size:
        return {}
    low, high = _range(float(known.min()), float(known.max()))
    lines = [{"name": name, "points": _points(values, low, high)} for name, values in thinned.items()]
    ticks = [{"y": round(_height(value, low, high), 1), "text": f"{value:.4g} %"} for value in np.linspace(low, high, 5)]
    return {"lines": lines, "ticks": ticks, "first": names[0], "last": names[-1]}


def _thinned(values: Any) -> Any:
    if len(values) <= MOST_POINTS:
        return values
    parts = np.array_split(values, MOST_POINTS)
    return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


def _range(low: float, high: float) -> tuple[float, float]:
    """Ends of the axis: whole steps around the values, inside 0..100 %."""
    step = 10.0 ** np.floor(np.log10(max(high - low, 0.1)))
    low, high = max(0.0, float(np.floor(low / step)) * step), min(100.0, float(np.ceil(high / step)) * step)
    return (low, high) if high > low else (max(0.0, low - step), min(100.0, low + step))


def _height(value: float, low: float, high: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def _points(values: Any, low: float, high: float) -> str:
    across = np.linspace(LEFT, RIGHT, len(values)) if len(values) > 1 else np.array([LEFT])
    return " ".join(f"{x:.1f},{_height(value, low, high):.1f}" for x, value in zip(across, values, strict=True) if not np.isnan(value))
