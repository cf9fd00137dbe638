"""Predict a video or a live source: reading, segmenting and writing overlap, and what a slow network cannot follow is counted."""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from segc.core.errors import UserError
from segc.core.files import atomic_path, explain_write_errors
from segc.core.progress import track
from segc.runtime.ahead import Ahead
from segc.runtime.overlay import draw_overlay, draw_text
from segc.runtime.predict import describe, segment_frames, write_class_map
from segc.runtime.recording import Recording
from segc.runtime.segmenter import ClassMap, Segmenter
from segc.runtime.sources import Frame, VideoSource

_KEPT_LATENCIES = 10_000
_KEPT_ENDS = 30
# Results that may wait for the writer: more would only make a live picture late.
_RESULTS_AHEAD = 1
_CLOSE_S = 2.0


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is predicted.

    Attributes:
        folder: where class maps, areas and, unless ``record`` is given, the overlay video go; None when nothing of these is written.
        saves: names of ``segc.runtime.predict.SAVES``.
        record: file of the overlay video.
        stats: write rate, latency and dropped frames into the overlay.
        opacity: weight of the colours, 0..1.
        batch: frames handed to the runner together.
        queue: frames that may wait for the network.
        limit: stop after this many frames.
    """

    folder: Path | None
    saves: frozenset[str] = frozenset()
    record: Path | None = None
    stats: bool = False
    opacity: float = 0.5
    batch: int = 1
    queue: int = 4
    limit: int | None = None

    def overlay_path(self, name: str) -> Path | None:
        """File of the overlay video of the stream ``name``, None where none is wanted."""
        wanted = self.folder is not None and "overlay" in self.saves
        return self.record or (self.folder / f"{name}.overlay.mp4" if self.folder is not None and wanted else None)


class Meter:
    """Rate and latency of a running stream. Latency: from the moment a frame was read to the moment its result is written."""

    def __init__(self) -> None:
        self.done = 0
        self._start = time.perf_counter()
        self._ends: deque[float] = deque(maxlen=_KEPT_ENDS)
        self._latencies: deque[float] = deque(maxlen=_KEPT_LATENCIES)

    def count(self, frame: Frame) -> None:
        """Note that this frame is finished."""
        self.done += 1
        self._ends.append(time.perf_counter())
        self._latencies.append(self._ends[-1] - frame.taken)

    def text(self, frame: Frame, dropped: int) -> str:
        """Rate over the last frames, latency of this one until now, frames dropped so far."""
        spans = len(self._ends) - 1
        rate = f"{spans / (self._ends[-1] - self._ends[0]):.1f} fps" if spans > 0 else "- fps"
        return f"{rate}  {1000 * (time.perf_counter() - frame.taken):.0f} ms  dropped {dropped}"

    def summary(self, read: int, dropped: int) -> dict[str, Any]:
        """Numbers of the whole stream; latencies over the last 10,000 frames, None before the first."""
        seconds = time.perf_counter() - self._start
        marks = 1000 * np.percentile(self._latencies, (50, 99)) if self._latencies else (None, None)
        return {
            "frames_read": read,
            "frames_segmented": self.done,
            "frames_dropped": dropped,
            "seconds": seconds,
            "fps": self.done / seconds,
            "latency_p50_ms": marks[0],
            "latency_p99_ms": marks[1],
        }


def predict_stream(segmenter: Segmenter, source: VideoSource, options: StreamOptions) -> dict[str, Any]:
    """Predict the frames of ``source`` and write what ``options`` names; returns ``Meter.summary`` with ``stopped`` (by ^C).

    A live source drops the oldest waiting frame when the network cannot follow; of a file every frame is segmented. A recording of a
    live source runs in real time: a picture is repeated until the next one. ^C, and an error of the source, leave finished files.

    Raises:
        UserError: the source gave no frame, or a file cannot be written.
    """
    with ExitStack() as stack:
        writer = _Writer(segmenter, source, options, stack)
        reader = Ahead(iter(source), options.queue, drop_oldest=source.live)
        results = Ahead(segment_frames(segmenter, reader, options.batch), _RESULTS_AHEAD)
        stopped = False
        try:
            for frame, found in track(results, "predicting", _total(source, options)):
                writer.write(frame, found, reader.dropped)
                if writer.meter.done == options.limit:
                    break
        except KeyboardInterrupt:
            if not writer.meter.done:
                raise
            stopped = True
        finally:
            reader.close(_CLOSE_S)
            results.close()
        if not writer.meter.done:
            raise UserError(f"{source.name} gave no frame that can be decoded.")
    return {**writer.meter.summary(reader.made, reader.dropped), "stopped": stopped}


class _Writer:
    """Writes the results of a stream; its files are finished, and get their names, when ``stack`` is left."""

    def __init__(self, segmenter: Segmenter, source: VideoSource, options: StreamOptions, stack: ExitStack) -> None:
        self._segmenter, self._options, self._live = segmenter, options, source.live
        self._lines: TextIO | None = None
        self._video: Recording | None = None
        self._first: float | None = None
        self.meter = Meter()
        if options.folder is not None:
            with explain_write_errors(options.folder):
                options.folder.mkdir(parents=True, exist_ok=True)
            if "json" in options.saves:
                temporary = stack.enter_context(atomic_path(options.folder / f"{source.name}.jsonl"))
                self._lines = stack.enter_context(temporary.open("w", encoding="utf-8"))
        path = options.overlay_path(source.name)
        if path is not None:
            self._video = Recording(stack.enter_context(atomic_path(path)), source.fps)
            stack.callback(self._video.close)

    def write(self, frame: Frame, found: ClassMap, dropped: int) -> None:
        """Write the result of one frame."""
        if self._video is not None:
            picture = draw_overlay(frame.image, found, self._segmenter.contract, self._options.opacity)
            if self._options.stats:
                picture = draw_text(picture, self.meter.text(frame, dropped))
            self._first = frame.taken if self._first is None else self._first
            self._video.write(picture, frame.taken - self._first if self._live else None)
        if self._lines is not None:
            self._lines.write(json.dumps(describe(frame, found, self._segmenter)) + "\n")
        if self._options.folder is not None and "classmap" in self._options.saves:
            write_class_map(self._options.folder, frame, found)
        self.meter.count(frame)


def _total(source: VideoSource, options: StreamOptions) -> int | None:
    return min((count for count in (source.frames, options.limit) if count is not None), default=None)
