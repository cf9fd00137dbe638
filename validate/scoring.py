"""Run artefacts over labelled images and count, streamed: one confusion matrix an image and, for two artefacts, where they agree.

Files are decoded ahead by threads. Images go through ``lanes``, each with its own runner and its share of the CPU threads: while one lane
decides and counts, the other keeps the cores busy. Only counts are kept, so that memory does not grow with the number of pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.images import Image, read_image
from segc.data.dataset import Pair, SegmentationSet
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.validate.confusions import Confusions
from segc.validate.maps import KeptMaps, MapStore
from segc.validate.metrics import Confusion, confusion
from segc.validate.places import Places
from segc.validate.sides import Side

T = TypeVar("T")
R = TypeVar("R")

LANES = 2
DECODERS = max(1, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True)
class Lane:
    """The artefact and the one it is compared with, opened for one thread; ``maps`` keeps what the artefact gives."""

    first: Segmenter
    second: Segmenter | KeptMaps | None
    maps: MapStore | None = None


@dataclass
class Scored:
    """What one artefact did on every image: its confusion matrices, in the order of the images, and those of ``validate.places``."""

    matrices: Confusions
    places: dict[str, Confusions] = field(default_factory=dict)

    @classmethod
    def of(cls, matrix: Confusion, places: Mapping[str, Confusion]) -> Scored:
        """One image."""
        return cls(Confusions.of(matrix), {name: Confusions.of(found) for name, found in places.items()})

    @property
    def total(self) -> Confusion:
        """Sum over the images."""
        return self.matrices.total

    def merge(self, other: Scored) -> None:
        """Append later images."""
        self.matrices.extend(other.matrices)
        for name, found in other.places.items():
            self.places.setdefault(name, Confusions(found.classes)).extend(found)


@dataclass
class Agreement:
    """Pixels with equal class in two artefacts: counts per image, and per label class (row 0 equal, row 1 all)."""

    same: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    matrix: Confusion | int = 0

    def add(self, equal: NDArray[np.bool_], label: NDArray[np.integer], classes: int, ignore: int) -> Agreement:
        """Count one image."""
        counted = label != ignore
        per_class = np.stack([np.bincount(label[mask], minlength=classes) for mask in (equal & counted, counted)])
        return self.merge(Agreement([int(equal.sum())], [equal.size], per_class))

    def merge(self, other: Agreement) -> Agreement:
        """Append the counts of later images."""
        self.same += other.same
        self.pixels += other.pixels
        self.matrix = self.matrix + other.matrix
        return self


@dataclass
class Counts:
    """Everything counted on some images; ``reference`` and ``agreement`` are filled where two artefacts are compared.

    brightness: mean sample of every image, 0..255. notices: what the host did to some of them that the graph did not.
    """

    scored: Scored
    reference: Scored | None = None
    agreement: Agreement | None = None
    brightness: list[float] = field(default_factory=list)
    notices: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, classes: int, compared: bool) -> Counts:
        """Nothing counted yet."""
        first, second = (Scored(Confusions(classes)) for _ in range(2))
        return cls(first, second, Agreement()) if compared else cls(first)

    def merge(self, other: Counts) -> Counts:
        """Append the counts of later images."""
        self.brightness += other.brightness
        self.notices |= other.notices
        self.scored.merge(other.scored)
        if self.reference and other.reference and self.agreement and other.agreement:
            self.reference.merge(other.reference)
            self.agreement.merge(other.agreement)
        return self


def open_lanes(target: Side, against: Side | None, dataset: SegmentationSet, threads: int, maps: Path | None = None) -> list[Lane]:
    """Open the artefacts once a lane.

    Args:
        target, against: what is scored, and what it is compared with.
        dataset: what they are scored on.
        threads: CPU threads of all lanes together.
        maps: folder of class maps: the target's are kept there, those of ``against`` are taken from there where they are.

    Raises:
        UserError: other classes than the dataset's; see also ``segc.runtime.runner.open_runner``.
    """
    count = min(LANES, threads)

    def opened(side: Side) -> Segmenter:
        segmenter = Segmenter(open_runner(side.text, side.backend, threads // count))
        _check_classes(segmenter, dataset, side.text)
        return segmenter

    def reference() -> Segmenter | KeptMaps | None:
        if against is None or maps is None:
            return opened(against) if against else None
        return KeptMaps(MapStore(maps, against, dataset.spec.num_classes), partial(opened, against))

    own = MapStore(maps, target, dataset.spec.num_classes) if maps else None
    return [Lane(opened(target), reference(), own) for _ in range(count)]


def _check_classes(segmenter: Segmenter, dataset: SegmentationSet, name: str) -> None:
    if segmenter.contract.num_classes != dataset.spec.num_classes:
        raise UserError(
            f"{name} has {segmenter.contract.num_classes} classes, but dataset {dataset.root} has {dataset.spec.num_classes}.",
            "Validate on the dataset it was trained for: --data ROOT --layout NAME",
        )


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def counted(lanes: list[Lane], dataset: SegmentationSet, pairs: Iterable[Pair], places: bool = False) -> Iterator[Counts]:
    """Counts of every pair, in order; with ``places`` those of borders and small regions too.

    Raises:
        UserError: an unreadable image or label, or a label of another size than its image.
    """
    free: SimpleQueue[Lane] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def count(loaded: tuple[Image, NDArray[np.integer]]) -> Counts:
        lane = free.get()
        try:
            return _count(lane, *loaded, dataset, places)
        finally:
            free.put(lane)

    return prefetch(count, prefetch(lambda pair: load_pair(dataset, pair), pairs), len(lanes))


def prefetch(function: Callable[[T], R], items: Iterable[T], workers: int = DECODERS) -> Iterator[R]:
    """``map`` in threads, in order, never more than a few items ahead of the consumer."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def load_pair(dataset: SegmentationSet, pair: Pair) -> tuple[Image, NDArray[np.integer]]:
    """Image and label of a pair.

    Raises:
        UserError: an unreadable image or label, or a label of another size than its image.
    """
    image, label = read_image(pair.image), dataset.read_label(pair)
    if image.shape[:2] != label.shape:
        raise UserError(
            f"label {pair.label} is {label.shape[1]}x{label.shape[0]}, but its image is {image.shape[1]}x{image.shape[0]} pixels.",
            f"See all such pairs: segc data check {dataset.root}",
        )
    return image, label


def _count(lane: Lane, image: Image, label: NDArray[np.integer], dataset: SegmentationSet, places: bool) -> Counts:
    classes, ignore = dataset.spec.num_classes, dataset.spec.ignore_index
    where = Places(label, classes, ignore) if places else None

    def scored(found: NDArray[Any]) -> Scored:
        return Scored.of(confusion(found, label, classes, ignore), where.confusions(found) if where else {})

    segmenter = Segmenter(lane.first.runner)  # its notices are those of this image
    found, brightness = segmenter.class_map(image), [float(np.mean(cv2.mean(image)[:3]))]
    notices = set(segmenter.notices)
    if lane.maps:
        lane.maps.put(image, found)
    if lane.second is None:
        return Counts(scored(found), brightness=brightness, notices=notices)
    other = lane.second.class_map(image)
    return Counts(scored(found), scored(other), Agreement().add(found == other, label, classes, ignore), brightness, notices)
