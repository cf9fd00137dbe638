"""Where images come from: a file, a folder, a glob, a video file or a camera, behind one iterator."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from segc.core.errors import UserError
from segc.runtime.images import SUFFIXES, Image, read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_UNKNOWN_FPS = 25.0


@dataclass(frozen=True)
class Frame:
    """One image of a source: its name (unique in the source, fit for a file name) and uint8 RGB (H, W, 3)."""

    name: str
    image: Image


@dataclass(frozen=True)
class ImageSource:
    """Image files, read one at a time."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for name, path in zip(_names(self.paths), self.paths, strict=True):
            yield Frame(name, read_image(path))


@dataclass(frozen=True)
class VideoSource:
    """A video file or a camera. ``frames`` is the container's frame count, None where it does not tell (a camera)."""

    name: str
    address: str | int
    fps: float
    frames: int | None

    @property
    def is_camera(self) -> bool:
        """True for a camera, which ends only when it is stopped."""
        return isinstance(self.address, int)

    def __iter__(self) -> Iterator[Frame]:
        capture = cv2.VideoCapture(self.address)
        try:
            index = 0
            while True:
                found, pixels = capture.read()
                if not found:
                    return
                yield Frame(f"{self.name}_{index:06d}", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
                index += 1
        finally:
            capture.release()


Source = ImageSource | VideoSource


def open_source(text: str) -> Source:
    """Open an image, a folder (its images, sorted), a glob, a video file or, for a whole number, a camera.

    Raises:
        UserError: nothing is there, a folder or glob has no image, or OpenCV cannot open the video or camera.
    """
    path = Path(text)
    if path.is_dir():
        return _images(sorted(path.iterdir()), f"folder {path}")
    if path.is_file():
        return _open_video(path.stem, str(path)) if path.suffix.lower() in VIDEO_SUFFIXES else ImageSource([path])
    if text.isdecimal():
        return _open_video(f"camera{text}", int(text))
    if glob.has_magic(text):
        return _images([Path(found) for found in sorted(glob.glob(text, recursive=True))], f"glob {text!r}")  # noqa: PTH207 (patterns may be absolute)
    raise UserError(f"source {text} does not exist.", "Give an image, a folder, a quoted glob, a video file or a camera number.")


def _images(paths: list[Path], what: str) -> ImageSource:
    found = [path for path in paths if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{what} has no image among its {len(paths)} entries.", f"Expected files ending in {', '.join(SUFFIXES)}.")
    return ImageSource(found)


def _open_video(name: str, address: str | int) -> VideoSource:
    capture = cv2.VideoCapture(address)
    try:
        if not capture.isOpened():
            what = f"camera {address}" if isinstance(address, int) else f"video {address}"
            raise UserError(f"{what} cannot be opened.", "Check that it is there, not in use, and of a codec OpenCV decodes.")
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return VideoSource(name, address, capture.get(cv2.CAP_PROP_FPS) or _UNKNOWN_FPS, frames if frames > 0 else None)
    finally:
        capture.release()


def _names(paths: list[Path]) -> list[str]:
    """Stems; a stem that several files share is told apart by folder and suffix."""
    shared = Counter(path.stem for path in paths)
    return [path.stem if shared[path.stem] == 1 else "_".join(path.parts).strip("/_") for path in paths]
