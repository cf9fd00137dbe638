"""Open a labelled dataset: pairs of image and label files, and labels as train ids. Needs numpy and OpenCV only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.data.labels import read_stored_label
from segc.data.layout import LAYOUTS, Layout, detect_layout, get_layout
from segc.data.spec import DatasetSpec, known_specs, read_spec

__all__ = ["LAYOUTS", "DatasetSpec", "Pair", "SegmentationSet", "open_dataset", "resolve_spec"]


@dataclass(frozen=True)
class Pair:
    """An image file and its label file."""

    image: Path
    label: Path


@dataclass(frozen=True)
class SegmentationSet:
    """One split of a dataset, its pairs in the order of the image paths."""

    spec: DatasetSpec
    root: Path
    split: str
    pairs: list[Pair]
    layout: str = "folder"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @property
    def image_paths(self) -> list[Path]:
        """The image files."""
        return [pair.image for pair in self.pairs]

    def read_label(self, pair: Pair) -> NDArray[np.integer]:
        """Label of ``pair`` as train ids, (H, W) of ``spec.label_dtype``; pixels not to count are ``spec.ignore_index``.

        Raises:
            UserError: the file is unreadable, or holds a value that is no class of the dataset.
        """
        return to_train_ids(read_stored_label(pair.label), self.spec, pair.label)


def to_train_ids(stored: NDArray[np.integer], spec: DatasetSpec, path: Path) -> NDArray[np.integer]:
    """Train ids of stored label values (H, W) uint8 or uint16, by one table look-up.

    Raises:
        UserError: a value out of range; ``path`` is named.
    """
    if stored.dtype == np.uint8:
        if not cv2.LUT(stored, spec.valid8).all():
            raise _out_of_range(stored, spec, path)
        return cv2.LUT(stored, spec.table8).astype(spec.label_dtype, copy=False)
    train_ids = spec.table[stored]
    if train_ids.min(initial=0) < 0:
        raise _out_of_range(stored, spec, path)
    return train_ids.astype(spec.label_dtype)


def open_dataset(root: Path | str, layout: str | None = None, split: str = "val") -> SegmentationSet:
    """Open one split of a dataset.

    Args:
        root: the dataset's folder.
        layout: a name of ``LAYOUTS``; None detects it from the sub-folders.
        split: ``train``, ``val`` (the dataset's own names, such as ADE20K's ``validation``, are known) or another folder name.

    Raises:
        UserError: no such folder, layout or split, an empty split, an image without a label, or no class names.
    """
    root = Path(root)
    chosen = detect_layout(root) if layout is None else get_layout(layout)
    spec = resolve_spec(root, chosen)
    images, labels = split_folders(root, chosen, split)
    by_stem = chosen.labels(labels)
    found = chosen.images(images)
    if not found:
        raise UserError(f"split {split!r} of {root} is empty: no image files in {images}.", f"Check it: segc data check {root}")
    missing = [path for stem, path in found.items() if stem not in by_stem]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} images in {images} have no label in {labels}; the first: {missing[0].name}.",
            f"See all: segc data check {root}",
        )
    return SegmentationSet(spec, root, split, [Pair(path, by_stem[stem]) for stem, path in found.items()], chosen.name)


def split_folders(root: Path, layout: Layout, split: str) -> tuple[Path, Path]:
    """(image folder, label folder) of a split.

    Raises:
        UserError: the split does not exist; those that do are named.
    """
    folders = layout.locate(root, split)
    if folders is None:
        expected = " or ".join(images.format(split=layout.splits.get(split, split)) for images, _ in layout.folders)
        there = ", ".join(layout.found_splits(root)) or "none"
        raise UserError(f"{root} has no split {split!r}: layout {layout.name!r} keeps it in {expected} (splits found: {there}).")
    return folders


def resolve_spec(root: Path, layout: Layout) -> DatasetSpec:
    """Classes of the dataset: its ``dataset.json`` / ``classes.json``, else the public dataset's of that layout.

    Raises:
        UserError: neither exists.
    """
    spec = read_spec(root) or known_specs().get(layout.name)
    if spec is None:
        raise UserError(
            f"the classes of {root} are unknown: it has no dataset.json.",
            f'Write {root / "dataset.json"} with {{"classes": ["road", "car", ...]}} in label order, or name the --layout.',
        )
    return spec


def _out_of_range(stored: NDArray[np.integer], spec: DatasetSpec, path: Path) -> UserError:
    values = np.unique(stored)
    wrong = ", ".join(str(value) for value in values[spec.table[values] < 0][:8])
    return UserError(
        f"label {path} holds {wrong}: no class of {spec.name!r} ({spec.num_classes} classes, ignore_index {spec.ignore_index}).",
        "Mend the label, or map the values in dataset.json: label_map.",
    )
