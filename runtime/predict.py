"""Predict a whole source into a folder: overlays, class maps and areas of images; a video and JSON lines of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError, nearest
from segc.core.files import atomic_path, explain_write_errors, write_json
from segc.core.progress import track
from segc.runtime.images import Image, write_image
from segc.runtime.overlay import class_areas, draw_overlay
from segc.runtime.segmenter import Segmenter
from segc.runtime.sources import Frame, ImageSource, Source, VideoSource

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


def predict(segmenter: Segmenter, source: Source, folder: Path, saves: set[str], *, opacity: float = 0.5, batch: int = 1) -> int:
    """Predict every frame of ``source`` and write what ``saves`` names into ``folder``; returns the number of frames.

    Images give ``<name>.overlay.png``, ``<name>.classmap.png`` (8-bit grey, 16-bit above 256 classes: the pixel is the class index)
    and ``<name>.json``. A video gives ``<name>.overlay.mp4``, ``<name>.jsonl`` and one class map a frame. ^C keeps what is finished.

    Raises:
        UserError: an image cannot be read, or the folder cannot be written.
    """
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, ImageSource):
        return _predict_images(segmenter, source, folder, saves, opacity, batch)
    return _predict_video(segmenter, source, folder, saves, opacity, batch)


def _predict_images(segmenter: Segmenter, source: ImageSource, folder: Path, saves: set[str], opacity: float, batch: int) -> int:
    done = 0
    for frame, found in _segmented(segmenter, track(source, "predicting", len(source)), batch):
        if "overlay" in saves:
            write_image(folder / f"{frame.name}.overlay.png", draw_overlay(frame.image, found, segmenter.contract, opacity))
        if "classmap" in saves:
            _write_class_map(folder / f"{frame.name}.classmap.png", found)
        if "json" in saves:
            write_json(folder / f"{frame.name}.json", _record(frame, found, segmenter))
        done += 1
    return done


def _predict_video(segmenter: Segmenter, source: VideoSource, folder: Path, saves: set[str], opacity: float, batch: int) -> int:
    done = 0
    interrupted: KeyboardInterrupt | None = None
    with ExitStack() as stack:
        lines: TextIO | None = None
        if "json" in saves:
            temporary = stack.enter_context(atomic_path(folder / f"{source.name}.jsonl"))
            lines = stack.enter_context(temporary.open("w", encoding="utf-8"))
        video = None
        if "overlay" in saves:
            video = _VideoFile(stack.enter_context(atomic_path(folder / f"{source.name}.overlay.mp4")), source.fps)
            stack.callback(video.close)
        try:
            for frame, found in _segmented(segmenter, track(source, "predicting", source.frames), batch):
                if video is not None:
                    video.write(draw_overlay(frame.image, found, segmenter.contract, opacity))
                if lines is not None:
                    lines.write(json.dumps(_record(frame, found, segmenter)) + "\n")
                if "classmap" in saves:
                    _write_class_map(folder / f"{frame.name}.classmap.png", found)
                done += 1
        except KeyboardInterrupt as error:
            interrupted = error
        if not done and interrupted is None:
            raise UserError(f"{source.name} gave no frame that can be decoded.")
    if interrupted is not None and not source.is_camera:
        raise interrupted
    return done


class _VideoFile:
    """An mp4 that takes its size from the first frame."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: Image) -> None:
        """Append uint8 RGB (H, W, 3); odd sizes lose their last row or column, which the codec cannot hold."""
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, (image.shape[1], image.shape[0]))
            if not self._writer.isOpened():
                raise UserError("OpenCV here cannot write mp4 video.", "Use --save classmap,json.")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


def _segmented(segmenter: Segmenter, frames: Iterable[Frame], batch: int) -> Iterator[tuple[Frame, NDArray[Any]]]:
    iterator = iter(frames)
    while group := list(islice(iterator, batch)):
        yield from zip(group, segmenter.class_maps([frame.image for frame in group]), strict=True)


def _write_class_map(path: Path, found: NDArray[Any]) -> None:
    write_image(path, found if found.dtype == np.uint8 else found.astype(np.uint16))


def _record(frame: Frame, found: NDArray[Any], segmenter: Segmenter) -> dict[str, Any]:
    return {"name": frame.name, "height": found.shape[0], "width": found.shape[1], "classes": class_areas(found, segmenter.contract)}
