"""What a build's process tells, as bars: one for each phase that TensorRT is in, on a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def show(events: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Follow the events to their end; returns what ``done`` held, None when it never came."""
    if not sys.stderr.isatty():
        return next((event["done"] for event in events if "done" in event), None)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        return follow(events, progress)


def follow(events: Iterable[dict[str, Any]], progress: Any) -> dict[str, Any] | None:
    """Draw the events on a ``rich.progress.Progress``; returns as ``show``."""
    bars: dict[str, Any] = {}
    for event in events:
        if "done" in event:
            return dict(event["done"])
        if "phase" in event:
            bars[event["phase"]] = progress.add_task(event["phase"], total=event["steps"])
        elif event.get("of") in bars:
            progress.update(bars[event["of"]], completed=event["step"])
        elif event.get("end") in bars:
            progress.remove_task(bars.pop(event["end"]))
    return None
