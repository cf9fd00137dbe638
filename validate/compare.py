"""Two artefacts on footage without labels: where they agree, frame by frame and class by class, and how much each flickers."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import write_text
from segc.core.images import Image
from segc.core.progress import track
from segc.core.rows import Row, environment
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.sources import Frame, Source, VideoSource
from segc.validate.metrics import class_iou, confusion, mean
from segc.validate.pictures import comparison_pictures
from segc.validate.templating import render
from segc.validate.timeline import timeline

STILL_LEVELS = 3
WORST = 3
_BLUR = (3, 3)


@dataclass
class Comparison:
    """What was counted: by frame its name, agreement (%), still pixels and those of them whose class changed in either artefact.

    matrix: confusion of the second artefact's classes (rows) and the first's. worst: (agreement, number, frame, maps), least agreement.
    """

    matrix: NDArray[np.int64]
    frames: list[dict[str, Any]] = field(default_factory=list)
    worst: list[Any] = field(default_factory=list)

    def add(self, frame: Frame, maps: list[NDArray[Any]], flicker: tuple[int, list[int]] | None) -> None:
        """Count one frame."""
        first, second = maps
        self.matrix += confusion(first, second, len(self.matrix), len(self.matrix))
        agreement = float(100 * (first == second).mean())
        still, changed = flicker or (0, [0, 0])
        row = {"name": frame.name, "agreement": agreement, "still": still, "changed_a": changed[0], "changed_b": changed[1]}
        entry = (-agreement, len(self.frames), frame, maps)
        (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, entry)
        self.frames.append(row)


class Flicker:
    """Pixels that stay as they are between neighbouring frames, and those of them whose class changes all the same.

    A pixel is still where no channel of the image, smoothed over 3 x 3 pixels against sensor noise, changes by more than ``STILL_LEVELS``.
    """

    def __init__(self) -> None:
        self._before: tuple[Image, list[NDArray[Any]]] | None = None

    def add(self, image: Image, maps: list[NDArray[Any]]) -> tuple[int, list[int]] | None:
        """(still pixels, changed ones of each map) since the frame before; None for a first frame or one of another size."""
        smooth = np.asarray(cv2.blur(image, _BLUR), np.uint8)
        before, self._before = self._before, (smooth, maps)
        if before is None or before[0].shape != smooth.shape:
            return None
        still = cv2.absdiff(smooth, before[0]).max(2) <= STILL_LEVELS
        return int(still.sum()), [int((still & (new != old)).sum()) for new, old in zip(maps, before[1], strict=True)]


def compare(
    first: str,
    second: str,
    source: Source,
    *,
    backend: str | None = None,
    second_backend: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Run two artefacts over a source and compare their class maps; frames are read one at a time, so that any length will do.

    Args:
        first, second: checkpoint, deploy graph or bundle (``PATH@PRECISION``), of the same classes.
        source: images, a video or a camera (which is compared until it is stopped).
        backend, second_backend, threads: see ``segc.runtime.runner.open_runner``.
        limit: only the first frames.
        output: HTML file with the timeline, the table and the frames that agree least.

    Raises:
        UserError: artefacts of other classes, or a source that gives no frame.
    """
    segmenters = [Segmenter(open_runner(name, each, threads)) for name, each in ((first, backend), (second, second_backend))]
    classes = segmenters[0].contract.classes
    if segmenters[1].contract.classes != classes:
        raise UserError(f"{first} and {second} have other classes: {', '.join(classes[:4])}... against "
                        f"{', '.join(segmenters[1].contract.classes[:4])}....")  # fmt: skip
    counted = Comparison(np.zeros((len(classes), len(classes)), np.int64))
    flicker = Flicker()
    for frame in _frames(source, limit):
        maps = [segmenter.class_map(frame.image) for segmenter in segmenters]
        counted.add(frame, maps, flicker.add(frame.image, maps))
    if not counted.frames:
        raise UserError("the source gave no frame that can be decoded.")
    result = _result((first, second), segmenters, counted)
    if output is not None:
        panels = [
            {"name": frame.name, "agreement": -key, "pictures": comparison_pictures(frame.image, maps, segmenters[0].contract)}
            for key, _, frame, maps in sorted(counted.worst, key=lambda entry: -entry[0])
        ]
        palette = segmenters[0].contract.palette
        write_text(output, render("compare.html.j2", **result, panels=panels, palette=palette, timelines=_timelines(counted.frames)))
    return result


def _frames(source: Source, limit: int | None) -> Iterator[Frame]:
    """The frames; a camera ends with ^C, what it gave is kept."""
    total = len(source) if not isinstance(source, VideoSource) else source.frames
    frames: Iterable[Frame] = islice(source, limit) if limit else source
    try:
        yield from track(frames, "comparing", min(total, limit or total) if total else limit)
    except KeyboardInterrupt:
        if not (isinstance(source, VideoSource) and source.live):
            raise


def _result(names: tuple[str, str], segmenters: list[Segmenter], counted: Comparison) -> dict[str, Any]:
    frames = counted.frames
    conditions = {
        side: {"target": Path(name).name, "precision": each.runner.precision, "backend": each.runner.backend}
        for side, name, each in zip("ab", names, segmenters, strict=True)
    }
    agreements = [frame["agreement"] for frame in frames]
    iou = class_iou(counted.matrix)
    values = [
        ("pixel agreement", float(np.mean(agreements)), "%"),
        ("least agreement of a frame", min(agreements), "%"),
        ("mIoU of A against B", mean(iou), "%"),
    ]
    still = sum(frame["still"] for frame in frames)
    if still:
        sides = [(f"flicker of {side.upper()}", sum(frame[f"changed_{side}"] for frame in frames)) for side in "ab"]
        values += [(name, 100 * changed / still, "% of still pixels") for name, changed in sides]
    rows = [Row(metric=metric, value=value, unit=unit, n=len(frames), conditions=conditions) for metric, value, unit in values]
    return {
        "kind": "comparison",
        **conditions,
        "rows": [row.model_dump() for row in rows],
        "per_class": _per_class(counted.matrix, segmenters[0].contract.classes, iou),
        "frames": frames,
        "still_pixels": still,
        "still_levels": STILL_LEVELS,
        "notices": sorted({notice for each in segmenters for notice in each.notices}),
        "environment": environment(),
    }


def _timelines(frames: list[dict[str, Any]]) -> dict[str, Any]:
    names = [frame["name"] for frame in frames]
    flicker = {
        side.upper(): [100 * frame[f"changed_{side}"] / frame["still"] if frame["still"] else None for frame in frames] for side in "ab"
    }
    return {
        "Pixels with the same class, by frame": timeline({"agreement": [frame["agreement"] for frame in frames]}, names),
        "Flicker, % of the still pixels": timeline(flicker, names),
    }


def _per_class(matrix: NDArray[np.int64], classes: list[str], iou: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Of every class: how often each artefact found it, and how far they agree on it."""
    return [
        {
            "class": name,
            "pixels_a": int(matrix[:, index].sum()),
            "pixels_b": int(matrix[index].sum()),
            "agreement": None if np.isnan(iou[index]) else float(iou[index]),
        }
        for index, name in enumerate(classes)
    ]
