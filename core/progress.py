"""Progress of long work: a bar with ETA on a terminal, a line now and then elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LINE_EVERY_S = 10.0


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` while telling the user how far it is and how long it will take.

    Args:
        items: what to iterate over.
        what: the work in a few words, e.g. "validating".
        total: number of items, when ``items`` has no ``len``.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, description=what, total=total, console=Console(stderr=True), transient=True)
    else:
        yield from _lines(items, what, total)


def _lines(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    start = told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= _LINE_EVERY_S:
            told = now
            of = f"/{total}, {(now - start) / done * (total - done):.0f} s left" if total else ""
            print(f"{what}: {done}{of}", file=sys.stderr, flush=True)
