"""Predict images into a folder: overlays, class maps and areas. Videos and live streams: ``segc.runtime.stream``."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segc.core.errors import UserError, nearest
from segc.core.files import explain_write_errors, write_json
from segc.core.progress import track
from segc.runtime.images import write_image
from segc.runtime.overlay import class_areas, draw_overlay
from segc.runtime.segmenter import ClassMap, Segmenter
from segc.runtime.sources import Frame, ImageSource

SAVES = ("overlay", "classmap", "json")


def parse_saves(text: str) -> set[str]:
    """Comma-separated names of ``SAVES`` as a set.

    Raises:
        UserError: an unknown name, or none.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(names - set(SAVES)):
        raise UserError(f"--save has the unknown kind {name!r}.{nearest(name, SAVES)}")
    if not names:
        raise UserError("--save names nothing to save.", f"--save {','.join(SAVES)}")
    return names


def predict(segmenter: Segmenter, source: ImageSource, folder: Path, saves: set[str], *, opacity: float = 0.5, batch: int = 1) -> int:
    """Predict every image of ``source`` and write what ``saves`` names into ``folder``; returns the number of images.

    Written are ``<name>.overlay.png``, ``<name>.classmap.png`` (8-bit grey, 16-bit above 256 classes: the pixel is the class index)
    and ``<name>.json``. ^C keeps what is finished.

    Raises:
        UserError: an image cannot be read, or the folder cannot be written.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for frame, found in segment_frames(segmenter, track(source, "predicting", len(source)), batch):
        if "overlay" in saves:
            write_image(folder / f"{frame.name}.overlay.png", draw_overlay(frame.image, found, segmenter.contract, opacity))
        if "classmap" in saves:
            write_class_map(folder, frame, found)
        if "json" in saves:
            write_json(folder / f"{frame.name}.json", describe(frame, found, segmenter))
        done += 1
    return done


def segment_frames(segmenter: Segmenter, frames: Iterable[Frame], batch: int) -> Generator[tuple[Frame, ClassMap], None, None]:
    """Every frame with its class map; ``batch`` frames are handed to the runner together."""
    iterator = iter(frames)
    while group := list(islice(iterator, batch)):
        yield from zip(group, segmenter.class_maps([frame.image for frame in group]), strict=True)


def write_class_map(folder: Path, frame: Frame, found: ClassMap) -> None:
    """Write ``<name>.classmap.png``."""
    write_image(folder / f"{frame.name}.classmap.png", found if found.dtype == np.uint8 else found.astype(np.uint16))


def describe(frame: Frame, found: ClassMap, segmenter: Segmenter) -> dict[str, Any]:
    """Name, size and areas of the classes of a frame; JSON-ready."""
    return {"name": frame.name, "height": found.shape[0], "width": found.shape[1], "classes": class_areas(found, segmenter.contract)}
