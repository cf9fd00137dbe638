"""The dataset that is always there: real CamVid images where they lie on this machine, else a rendered street scene made on first use."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segc.core.files import cache_folder, explain_write_errors
from segc.data.render import RENDER_VERSION, render_dataset


def embedded_dataset() -> Path:
    """Root of the dataset to use when the user names none.

    ``$SEGC_DATA/camvid`` (default ``../shared/data/camvid`` beside the source folder) when its images are there; else the rendered
    street scene in the user's cache (``$XDG_CACHE_HOME/segc``), made on first use; which one is told on stderr.

    Raises:
        UserError: the cache cannot be written.
    """
    return camvid_root() or rendered_dataset()


def camvid_root() -> Path | None:
    """Root of the real CamVid images, or None where ``SEGC_DATA`` (or its default place) has none."""
    named = os.environ.get("SEGC_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return root / "camvid" if (root / "camvid" / "images" / "val").is_dir() else None


def rendered_dataset() -> Path:
    """Root of the rendered street scene in the user's cache, made when it is not there yet."""
    root = cache_folder() / f"street-v{RENDER_VERSION}"
    with _alone(root.with_suffix(".lock")):
        known = root.is_dir()
        print(f"no CamVid images here (SEGC_DATA): {'using' if known else 'rendering'} the street scene in {root}", file=sys.stderr)
        if not known:
            render_dataset(root)
    return root


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process in at a time (the ranks of a distributed training start together); a killed one leaves no lock behind."""
    with explain_write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
