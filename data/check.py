"""Look a dataset through before hours are spent on it: files, sizes, label values, splits, class frequencies."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.images import decode_image, read_image_bytes
from segc.core.progress import track
from segc.data.dataset import resolve_spec, split_folders
from segc.data.labels import read_stored_label
from segc.data.layout import Layout, detect_layout, get_layout
from segc.data.spec import DatasetSpec

T = TypeVar("T")
R = TypeVar("R")

Kind = Literal[
    "missing-split",
    "empty-split",
    "image-without-label",
    "label-without-image",
    "unreadable-image",
    "unreadable-label",
    "size-mismatch",
    "label-out-of-range",
    "split-overlap",
    "duplicate-image",
    "all-ignored",
    "absent-class",
]
# These are told but do not fail the check: a sound dataset may have them.
WARNINGS = frozenset({"label-without-image", "duplicate-image", "all-ignored", "absent-class"})


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (or, when its kind is in ``WARNINGS``, odd)."""

    kind: Kind
    split: str
    path: str
    detail: str

    @property
    def is_error(self) -> bool:
        """True when it fails the check."""
        return self.kind not in WARNINGS


@dataclass
class SplitReport:
    """What a split holds: number of images and pairs, pixels of each train id, images that show it, ignored pixels."""

    split: str
    images: int = 0
    pairs: int = 0
    pixels: list[int] = field(default_factory=list)
    images_with: list[int] = field(default_factory=list)
    ignored: int = 0

    def shares(self) -> list[float]:
        """Share of each class in all pixels, ignored ones included, in percent."""
        return [100 * count / max(self._total(), 1) for count in self.pixels]

    def ignored_share(self) -> float:
        """Share of the ignored pixels, in percent."""
        return 100 * self.ignored / max(self._total(), 1)

    def _total(self) -> int:
        return sum(self.pixels) + self.ignored


@dataclass
class CheckReport:
    """The findings over all splits, and what each split holds."""

    root: str
    layout: str
    spec: DatasetSpec
    splits: list[SplitReport]
    findings: list[Finding]

    @property
    def passed(self) -> bool:
        """True when no finding is an error."""
        return not any(finding.is_error for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON value of the report."""
        splits = [{**asdict(split), "share_percent": dict(zip(self.spec.classes, split.shares(), strict=True))} for split in self.splits]
        findings = [{**asdict(finding), "error": finding.is_error} for finding in self.findings]
        counts = Counter(finding.kind for finding in self.findings)
        return {
            "root": self.root,
            "layout": self.layout,
            "spec": self.spec.to_json(),
            "splits": splits,
            "counts": dict(counts),
            "findings": findings,
        }


_Content = tuple[str, str, Path]  # SHA-256, split, image file


@dataclass(frozen=True)
class _Seen:
    """What one image file and its label showed; ``stored`` counts the pixels of each stored label value."""

    image: Path
    label: Path | None
    digest: str
    stored: NDArray[np.int64] | None
    findings: list[Finding]


def check_dataset(root: Path | str, layout: str | None = None, threads: int | None = None) -> CheckReport:
    """Read every image and label of the train, val and test splits and report what is wrong with them.

    Args:
        root: the dataset's folder.
        layout: see ``open_dataset``.
        threads: decoding threads; None is one a core.

    Raises:
        UserError: no such folder, layout or split at all, or no class names: nothing can be checked.
    """
    root = Path(root)
    chosen = detect_layout(root) if layout is None else get_layout(layout)
    spec = resolve_spec(root, chosen)
    found = chosen.found_splits(root)
    if not found:
        split_folders(root, chosen, "val")  # says where it looked
    missing = [split for split in ("train", "val") if split not in found]
    findings = [Finding("missing-split", split, str(root), f"layout {chosen.name!r} finds no folder of it") for split in missing]
    splits: list[SplitReport] = []
    contents: list[_Content] = []
    for split in found:
        report, problems = _check_split(root, chosen, spec, split, threads, contents)
        splits.append(report)
        findings += problems
    return CheckReport(str(root), chosen.name, spec, splits, findings + _repeated(contents))


def _check_split(
    root: Path, layout: Layout, spec: DatasetSpec, split: str, threads: int | None, contents: list[_Content]
) -> tuple[SplitReport, list[Finding]]:
    """Report and findings of one split; adds the hash of each readable image to ``contents``."""
    images_folder, labels_folder = split_folders(root, layout, split)
    images, labels = layout.images(images_folder), layout.labels(labels_folder)
    findings = [] if images else [Finding("empty-split", split, str(images_folder), "no image files")]
    if split != "test" or labels:  # public test splits come without labels
        alone = [path for stem, path in images.items() if stem not in labels]
        findings += [Finding("image-without-label", split, str(path), f"no such *{layout.label_end} in {labels_folder}") for path in alone]
    alone = [path for stem, path in labels.items() if stem not in images]
    findings += [Finding("label-without-image", split, str(path), f"no such image in {images_folder}") for path in alone]
    report = SplitReport(split, len(images), len(images.keys() & labels.keys()), [0] * spec.num_classes, [0] * spec.num_classes)
    work = [(path, labels.get(stem)) for stem, path in images.items()]
    for seen in _in_threads(lambda pair: _look(*pair, split), work, threads, f"checking {split}"):
        findings += seen.findings + _count(seen, spec, report)
        if seen.digest:
            contents.append((seen.digest, split, seen.image))
    return report, findings + _absent(spec, report)


def _look(image: Path, label: Path | None, split: str) -> _Seen:
    """Decode an image and its label."""
    findings: list[Finding] = []
    digest, size, stored = "", None, None
    try:
        data = read_image_bytes(image)
        digest = hashlib.sha256(data).hexdigest()
        size = decode_image(image, data, cv2.IMREAD_COLOR).shape[:2]
    except UserError as error:
        findings.append(Finding("unreadable-image", split, str(image), _without(error, image)))
    try:
        values = None if label is None else read_stored_label(label)
    except UserError as error:
        values = None
        findings.append(Finding("unreadable-label", split, str(label), _without(error, label)))
    if values is not None:
        stored = np.bincount(values.ravel(), minlength=256)
        if size is not None and size != values.shape:
            detail = f"image is {size[1]}x{size[0]}, label {values.shape[1]}x{values.shape[0]} (width x height)"
            findings.append(Finding("size-mismatch", split, str(label), detail))
    return _Seen(image, label, digest, stored, findings)


def _without(error: UserError, path: Path | None) -> str:
    """The message after the path, which the finding names already."""
    return error.message.partition(str(path))[2].strip() or error.message


def _count(seen: _Seen, spec: DatasetSpec, report: SplitReport) -> list[Finding]:
    """Add a label's pixels to the report; tell values that are no class, and labels without any class."""
    if seen.stored is None:
        return []
    values = np.flatnonzero(seen.stored)
    train_ids = spec.table[values]
    for value, train_id in zip(values.tolist(), train_ids.tolist(), strict=True):
        if 0 <= train_id < spec.num_classes:
            report.pixels[train_id] += int(seen.stored[value])
        elif train_id == spec.ignore_index:
            report.ignored += int(seen.stored[value])
    shown = {train_id for train_id in train_ids.tolist() if 0 <= train_id < spec.num_classes}
    for train_id in shown:
        report.images_with[train_id] += 1
    wrong = values[train_ids < 0]
    if wrong.size:
        told = ", ".join(f"{value} ({seen.stored[value]} pixels)" for value in wrong[:6]) + (", ..." if wrong.size > 6 else "")
        detail = f"values {told} are no class of {spec.name!r} ({spec.num_classes} classes)"
        return [Finding("label-out-of-range", report.split, str(seen.label), detail)]
    return [] if shown else [Finding("all-ignored", report.split, str(seen.label), "no pixel has a class")]


def _absent(spec: DatasetSpec, report: SplitReport) -> list[Finding]:
    names = [name for name, pixels in zip(spec.classes, report.pixels, strict=True) if not pixels]
    if not names or not report.pairs:
        return []
    told = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return [Finding("absent-class", report.split, report.split, f"no pixel of {told}")]


def _repeated(contents: list[_Content]) -> list[Finding]:
    """Images whose content was seen before: across splits it spoils the validation, within one it only weighs double."""
    first: dict[str, tuple[str, Path]] = {}
    findings = []
    for digest, split, path in contents:
        if digest not in first:
            first[digest] = (split, path)
            continue
        other, same = first[digest]
        kind: Kind = "duplicate-image" if other == split else "split-overlap"
        findings.append(Finding(kind, split, str(path), f"same content as {same} of split {other!r}"))
    return findings


def _in_threads(work: Callable[[T], R], items: list[T], threads: int | None, what: str) -> Iterator[R]:
    """Results in order; on an interrupt the items not begun are dropped."""
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        yield from track(pool.map(work, items), what, total=len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
