"""Where images come from: files, folders, globs, video files, cameras, network streams and GStreamer pipelines, behind one iterator."""

from __future__ import annotations

import glob
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from segc.core.errors import UserError
from segc.runtime.images import SUFFIXES, Image, read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
STREAM_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
_UNKNOWN_FPS = 25.0
_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Frame:
    """One image of a source: its name (unique in the source, fit for a file name), uint8 RGB (H, W, 3), and when it was read.

    ``taken`` is in seconds of ``time.perf_counter``.
    """

    name: str
    image: Image
    taken: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class ImageSource:
    """Image files, read one at a time."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for name, path in zip(_names(self.paths), self.paths, strict=True):
            yield Frame(name, read_image(path))


class VideoSource:
    """A video file, a camera or a network stream; its frames can be read once.

    Attributes:
        name: fit for a file name.
        fps: frames/s it says it has, 25 where it does not say.
        frames: the container's frame count, None where it does not tell.
        live: True for what ends only when it is stopped, and does not wait for a reader that is slow.
    """

    def __init__(self, name: str, capture: cv2.VideoCapture, live: bool) -> None:
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.name, self.live, self._capture = name, live, capture
        self.fps = capture.get(cv2.CAP_PROP_FPS) or _UNKNOWN_FPS
        self.frames = frames if frames > 0 and not live else None

    def __iter__(self) -> Generator[Frame, None, None]:
        try:
            for index in count():
                found, pixels = self._capture.read()
                if not found:
                    return
                yield Frame(f"{self.name}_{index:06d}", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
        finally:
            self._capture.release()


Source = ImageSource | VideoSource


def open_source(text: str) -> Source:
    """Open an image, a folder (its images, sorted), a glob, a video file, a camera (its number or its device file), the address of a
    network stream (``rtsp://...``), or a GStreamer pipeline (``... ! appsink``).

    Raises:
        UserError: nothing is there, a folder or glob has no image, or OpenCV cannot open the video, camera, stream or pipeline.
    """
    path = Path(text)
    if " ! " in text:
        return _open_pipeline(text)
    if text.startswith(STREAM_PREFIXES):
        return _open_stream(text)
    if path.is_dir():
        return _images(sorted(path.iterdir()), f"folder {path}")
    if path.is_file():
        return _open_file(path) if path.suffix.lower() in VIDEO_SUFFIXES else ImageSource([path])
    if text.isdecimal():
        return VideoSource(f"camera{text}", _capture(f"camera {text}", int(text)), live=True)
    if path.is_char_device():
        return VideoSource(path.name, _capture(f"camera {text}", text, cv2.CAP_V4L2), live=True)
    if glob.has_magic(text):
        return _images([Path(found) for found in sorted(glob.glob(text, recursive=True))], f"glob {text!r}")  # noqa: PTH207 (patterns may be absolute)
    raise UserError(f"source {text} does not exist.", "Give an image, a folder, a quoted glob, a video file, a camera number or rtsp://...")


def _images(paths: list[Path], what: str) -> ImageSource:
    found = [path for path in paths if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{what} has no image among its {len(paths)} entries.", f"Expected files ending in {', '.join(SUFFIXES)}.")
    return ImageSource(found)


def _open_file(path: Path) -> VideoSource:
    return VideoSource(path.stem, _capture(f"video {path}", str(path)), live=False)


def _open_stream(address: str) -> VideoSource:
    """A stream is live unless it knows its number of frames. Its name and messages leave out what may be a password."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition("@")[2].partition("/")[0]
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    capture = _capture(f"stream {scheme}://{host}", address, cv2.CAP_FFMPEG, timeouts)
    return VideoSource(host.replace(":", "_"), capture, live=capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0)


def _open_pipeline(text: str) -> VideoSource:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise UserError(
            "OpenCV here is built without GStreamer (the packages of PyPI are); JetPack's own OpenCV has it.",
            "Remove opencv-python-headless and use the system's, or give a camera number or rtsp://... instead.",
        )
    if not text.split(" ! ")[-1].strip().startswith("appsink"):
        raise UserError(f"the GStreamer pipeline {text!r} does not end in appsink.", "Append ' ! videoconvert ! appsink drop=true'.")
    return VideoSource("gstreamer", _capture(f"GStreamer pipeline {text!r}", text, cv2.CAP_GSTREAMER), live=True)


def _capture(what: str, address: str | int, backend: int = cv2.CAP_ANY, options: Sequence[int] = ()) -> cv2.VideoCapture:
    """An opened capture; OpenCV's own warnings are kept back because the error says it."""
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(address, backend, list(options))
    finally:
        log.setLogLevel(level)
    if not capture.isOpened():
        raise UserError(f"{what} cannot be opened.", "Check that it is there, not in use, and of a codec OpenCV decodes.")
    return capture


def _names(paths: list[Path]) -> list[str]:
    """Stems; a stem that several files share is told apart by folder and suffix."""
    shared = Counter(path.stem for path in paths)
    return [path.stem if shared[path.stem] == 1 else "_".join(path.parts).strip("/_") for path in paths]
