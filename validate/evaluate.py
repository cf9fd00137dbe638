"""Run an artefact over a labelled dataset and score it, alone or against another artefact, streamed.

Files are decoded ahead by threads while the network runs; per image only a confusion matrix is kept, so that memory does not grow
with the number of pixels.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import sha256_file, sha256_json, write_json
from segc.core.images import Image, read_image
from segc.core.progress import track
from segc.core.rows import Row, environment
from segc.data.dataset import Pair, SegmentationSet
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target, content_hash, parse_target
from segc.validate.metrics import Confusion, Summary, confusion, one_class_baseline, random_baseline, summarize

T = TypeVar("T")
R = TypeVar("R")

DECODERS = max(1, min(4, (os.cpu_count() or 2) // 2))
RESULTS = "results"


@dataclass
class Scored:
    """What one artefact did on every image: its confusion matrices, in the order of the images."""

    matrices: list[Confusion] = field(default_factory=list)

    @property
    def total(self) -> Confusion:
        """Sum over the images."""
        return np.sum(self.matrices, axis=0)


@dataclass
class Agreement:
    """Pixels with equal class in two artefacts: counts per image, and per label class."""

    same: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    matrix: Confusion | int = 0


def validate(
    target: str,
    dataset: SegmentationSet,
    *,
    against: str | None = None,
    backend: str | None = None,
    against_backend: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Score ``target`` on a dataset at label resolution, and against another artefact where one is named.

    Args:
        target: checkpoint, ONNX deploy graph or bundle (``PATH@PRECISION``).
        dataset: from ``segc.data.dataset.open_dataset``.
        against: the artefact that ``target`` was made from, run on the same images in the same pass.
        backend, against_backend: see ``segc.runtime.runner.open_runner``.
        threads: CPU threads of a run.
        limit: only the first images.
        output: result file; None stores the result in the bundle's ``results/`` when ``target`` is a bundle.

    Returns:
        The result as stored: rows, per_class, per_image, dataset, environment.

    Raises:
        UserError: unknown target, classes that do not fit, an unreadable image or label, a label of another size than its image.
    """
    pairs = list(dataset)[:limit]
    first = Segmenter(open_runner(target, backend, threads))
    second = Segmenter(open_runner(against, against_backend, threads)) if against else None
    for segmenter, name in ((first, target), (second, against)):
        if segmenter is not None:
            _check_classes(segmenter, dataset, str(name))
    start = time.perf_counter()
    scored, reference, agreement = _score(first, second, dataset, pairs)
    seconds = time.perf_counter() - start
    result = _result(target, against, first, second, dataset, pairs, scored, reference, agreement, seconds)
    path = output or result_path(target, first)
    if path is not None:
        write_json(path, result)
    return result


def result_path(target: str, segmenter: Segmenter) -> Path | None:
    """Where a bundle keeps the validation of a precision on a backend; None for other artefacts."""
    found = parse_target(target)
    if found.kind != "bundle":
        return None
    return found.path / RESULTS / f"validation.{segmenter.runner.precision}.{segmenter.runner.backend}.json"


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


def _score(
    first: Segmenter, second: Segmenter | None, dataset: SegmentationSet, pairs: list[Pair]
) -> tuple[Scored, Scored | None, Agreement | None]:
    scored, reference, agreement = Scored(), Scored() if second else None, Agreement() if second else None
    classes, ignore = dataset.spec.num_classes, dataset.spec.ignore_index

    def load(pair: Pair) -> tuple[Image, NDArray[np.integer]]:
        return _load(dataset, pair)

    for image, label in track(prefetch(load, pairs), "validating", len(pairs)):
        found = first.class_map(image)
        scored.matrices.append(confusion(found, label, classes, ignore))
        if second is not None and reference is not None and agreement is not None:
            other = second.class_map(image)
            reference.matrices.append(confusion(other, label, classes, ignore))
            _add_agreement(agreement, found, other, label, classes, ignore)
    return scored, reference, agreement


def _load(dataset: SegmentationSet, pair: Pair) -> tuple[Image, NDArray[np.integer]]:
    image, label = read_image(pair.image), dataset.read_label(pair)
    if image.shape[:2] != label.shape:
        raise UserError(
            f"label {pair.label} is {label.shape[1]}x{label.shape[0]}, but its image is {image.shape[1]}x{image.shape[0]} pixels.",
            f"See all such pairs: segc data check {dataset.root}",
        )
    return image, label


def _add_agreement(
    agreement: Agreement,
    found: NDArray[np.integer],
    other: NDArray[np.integer],
    label: NDArray[np.integer],
    classes: int,
    ignore: int,
) -> None:
    equal = found == other
    agreement.same.append(int(equal.sum()))
    agreement.pixels.append(equal.size)
    counted = label[label != ignore]
    hits = np.bincount(label[equal & (label != ignore)], minlength=classes)
    agreement.matrix = agreement.matrix + np.stack([hits, np.bincount(counted, minlength=classes)])


def _check_classes(segmenter: Segmenter, dataset: SegmentationSet, name: str) -> None:
    if segmenter.contract.num_classes != dataset.spec.num_classes:
        raise UserError(
            f"{name} has {segmenter.contract.num_classes} classes, but dataset {dataset.root} has {dataset.spec.num_classes}.",
            "Validate on the dataset it was trained for: --data ROOT --layout NAME",
        )


def _result(
    target: str,
    against: str | None,
    first: Segmenter,
    second: Segmenter | None,
    dataset: SegmentationSet,
    pairs: list[Pair],
    scored: Scored,
    reference: Scored | None,
    agreement: Agreement | None,
    seconds: float,
) -> dict[str, Any]:
    summary = summarize(scored.total)
    other = summarize(reference.total) if reference else None
    conditions = {"precision": first.runner.precision, "backend": first.runner.backend, "split": dataset.split, "resolution": "label"}
    rows = _rows(summary, other, scored.total, agreement, len(pairs), seconds, conditions)
    return {
        "kind": "validation",
        **_subject(target, first),
        "against": _subject(against, second) if against and second else None,
        "dataset": {
            "name": dataset.spec.name,
            "root": str(dataset.root.resolve()),
            "layout": dataset.layout,
            "split": dataset.split,
            "n": len(pairs),
            "sha256": sha256_json([[sha256_file(pair.image), sha256_file(pair.label)] for pair in pairs]),
        },
        "classes": list(dataset.spec.classes),
        "rows": [row.model_dump() for row in rows],
        "per_class": _per_class(dataset, summary, other, scored.total, agreement),
        "per_image": _per_image(dataset, pairs, scored, reference, agreement),
        "notices": first.notices,
        "seconds": seconds,
        "environment": environment(),
    }


def _subject(target: str, segmenter: Segmenter) -> dict[str, Any]:
    found = parse_target(target)
    runner = segmenter.runner
    return {
        "target": _name(found, runner.precision),
        "precision": runner.precision,
        "backend": runner.backend,
        "graph_sha256": content_hash(found, runner.precision),
    }


def _name(target: Target, precision: str) -> str:
    return f"{target.path.name}@{precision}" if target.kind == "bundle" else target.path.name


def _rows(
    summary: Summary,
    other: Summary | None,
    total: Confusion,
    agreement: Agreement | None,
    n: int,
    seconds: float,
    conditions: dict[str, Any],
) -> list[Row]:
    values = [("mIoU", summary.miou, "%"), ("mAcc", summary.macc, "%"), ("aAcc", summary.aacc, "%")]
    if other is not None and agreement is not None:
        values += [("reference mIoU", other.miou, "%"), ("reference mAcc", other.macc, "%"), ("reference aAcc", other.aacc, "%")]
        values += [("drop mIoU", other.miou - summary.miou, "points")]
        values += [("pixel agreement", 100 * sum(agreement.same) / sum(agreement.pixels), "%")]
    values += [("all-one-class mIoU", one_class_baseline(total), "%"), ("random mIoU", random_baseline(total), "%")]
    values += [("images/s", n / seconds, "images/s")]
    return [
        Row(metric=metric, value=value, unit=unit, n=n, conditions=conditions)
        for metric, value, unit in values
        if np.isfinite(value)
    ]  # fmt: skip


def _per_class(
    dataset: SegmentationSet, summary: Summary, other: Summary | None, total: Confusion, agreement: Agreement | None
) -> list[dict[str, Any]]:
    counts: Any = agreement.matrix if agreement is not None else None
    table = []
    for index, name in enumerate(dataset.spec.classes):
        row: dict[str, Any] = {"class": name, "iou": _number(summary.iou[index]), "acc": _number(summary.acc[index])}
        row["pixels"] = int(total[index].sum())
        if other is not None:
            row["reference_iou"] = _number(other.iou[index])
            row["drop"] = _number(other.iou[index] - summary.iou[index])
            row["agreement"] = float(100 * counts[0][index] / counts[1][index]) if counts[1][index] else None
        table.append(row)
    return table


def _per_image(
    dataset: SegmentationSet, pairs: list[Pair], scored: Scored, reference: Scored | None, agreement: Agreement | None
) -> list[dict[str, Any]]:
    table = []
    for index, pair in enumerate(pairs):
        row: dict[str, Any] = {"image": _relative(pair.image, dataset.root), "label": _relative(pair.label, dataset.root)}
        row["miou"] = _number(summarize(scored.matrices[index]).miou)
        if reference is not None and agreement is not None:
            row["reference_miou"] = _number(summarize(reference.matrices[index]).miou)
            row["agreement"] = 100 * agreement.same[index] / agreement.pixels[index]
        table.append(row)
    return table


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _number(value: float) -> float | None:
    """JSON has no NaN: a score of a class that occurs nowhere is null."""
    return float(value) if np.isfinite(value) else None
