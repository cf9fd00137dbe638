"""Confusion matrices of many images, one an image, only the cells that are not zero: in memory, and in one compressed file."""

from __future__ import annotations

import json
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import atomic_path
from segc.validate.metrics import Confusion

Counts = NDArray[np.float64]

_LARGEST_FILE = 1 << 30  # bytes when unpacked: 10^5 images of 150 classes take about a quarter of it
_LARGEST_COUNT = 2**32 - 1
_ABOUT = "about"


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of every class in every image, (images, K), whole numbers in float64: all that IoU and accuracy are made of.

    right: label and prediction have the class. label: the label has it. found: the prediction has it.
    """

    right: Counts
    label: Counts
    found: Counts

    def only(self, images: NDArray[np.int64]) -> ClassCounts:
        """Those of some images, by index."""
        return ClassCounts(self.right[images], self.label[images], self.found[images])

    @property
    def total(self) -> ClassCounts:
        """Sums over the images, (K,)."""
        return ClassCounts(self.right.sum(0), self.label.sum(0), self.found.sum(0))


class Confusions:
    """Confusion matrices (K, K) int64 of images, in the order they are appended; a cell takes 8 bytes, an empty one none."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._ends = array("Q", [0])
        self._cells = array("I")
        self._counts = array("I")

    @classmethod
    def of(cls, matrix: Confusion) -> Confusions:
        """Those of one image."""
        found = cls(len(matrix))
        found.append(matrix)
        return found

    def append(self, matrix: Confusion) -> None:
        """Add the matrix of the next image.

        Raises:
            ValueError: another shape, or a count that is negative or beyond 32 bits.
        """
        if matrix.shape != (self.classes, self.classes):
            raise ValueError(f"a confusion matrix of shape {matrix.shape}, expected {(self.classes, self.classes)}")
        if not (matrix.min(initial=0) >= 0 and matrix.max(initial=0) <= _LARGEST_COUNT):
            raise ValueError(f"a confusion matrix holds {matrix.min()}..{matrix.max()}, expected 0..{_LARGEST_COUNT}")
        flat = matrix.ravel()
        cells = np.flatnonzero(flat)
        self._cells.frombytes(cells.astype(np.uint32).tobytes())
        self._counts.frombytes(flat[cells].astype(np.uint32).tobytes())
        self._ends.append(len(self._cells))

    def extend(self, other: Confusions) -> None:
        """Add the matrices of later images.

        Raises:
            ValueError: other classes.
        """
        if other.classes != self.classes:
            raise ValueError(f"confusion matrices of {other.classes} classes, expected {self.classes}")
        before = len(self._cells)
        self._cells += other._cells
        self._counts += other._counts
        self._ends.extend(before + end for end in other._ends[1:])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Confusion:
        """The matrix of an image, whole."""
        index = range(len(self))[index]
        piece = slice(self._ends[index], self._ends[index + 1])
        matrix = np.zeros(self.classes**2, np.int64)
        matrix[np.array(self._cells[piece])] = self._counts[piece]
        return matrix.reshape(self.classes, self.classes)

    def __iter__(self) -> Iterator[Confusion]:
        return (self[index] for index in range(len(self)))

    @property
    def total(self) -> Confusion:
        """Sum over the images."""
        return _sums(self._cell_index(), np.array(self._counts), self.classes**2).reshape(self.classes, self.classes)

    def counts(self, classes: int | None = None) -> ClassCounts:
        """Pixels of every class in every image; of the first ``classes`` ones where that is given."""
        ends = np.array(self._ends, np.int64)
        image = np.repeat(np.arange(len(self)), ends[1:] - ends[:-1]) * self.classes
        row, column = np.divmod(self._cell_index(), self.classes)
        pixels, shape = np.array(self._counts), (len(self), self.classes)
        right = row == column
        return ClassCounts(
            *(
                _sums(image[chosen] + one[chosen], pixels[chosen], len(self) * self.classes).reshape(shape)[:, :classes].astype(np.float64)
                for one, chosen in ((row, right), (row, slice(None)), (column, slice(None)))
            )
        )

    def _cell_index(self) -> NDArray[np.int64]:
        return np.array(self._cells, np.int64)

    def arrays(self) -> dict[str, NDArray[np.integer]]:
        """As the file holds it: ``classes``, where every image's cells end, the cells (row * K + column) and their counts."""
        small = np.uint16 if self.classes <= 256 else np.uint32
        return {
            "classes": np.array(self.classes, np.uint32),
            "ends": np.array(self._ends, np.uint64)[1:],
            "cells": np.array(self._cells, small),
            "counts": np.array(self._counts, np.uint32),
        }

    @classmethod
    def from_arrays(cls, classes: int, ends: NDArray[np.integer], cells: NDArray[np.integer], counts: NDArray[np.integer]) -> Confusions:
        """The other way of ``arrays``.

        Raises:
            ValueError: the arrays do not fit together.
        """
        found = cls(classes)
        bounds = np.concatenate([[0], ends.astype(np.int64)])
        if any(each.ndim != 1 for each in (ends, cells, counts)) or len(cells) != len(counts) or bounds[-1] != len(cells):
            raise ValueError("the arrays differ in length")
        if (bounds[1:] < bounds[:-1]).any() or cells.max(initial=0) >= classes**2:
            raise ValueError("a cell lies outside of its matrix")
        rising = np.ones(len(cells) + 1, bool)
        rising[1:-1] = cells[1:] > cells[:-1]
        rising[bounds] = True
        if not (rising.all() and counts.min(initial=1) > 0):
            raise ValueError("a cell stands twice, or is empty")
        found._ends.frombytes(bounds[1:].astype(np.uint64).tobytes())
        found._cells.frombytes(cells.astype(np.uint32).tobytes())
        found._counts.frombytes(counts.astype(np.uint32).tobytes())
        return found


def _sums(index: NDArray[np.int64], pixels: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """Pixels by index; bincount's float64 sums are whole numbers below 2^53."""
    return np.bincount(index, pixels, length).astype(np.int64)


def save_confusions(path: Path, sides: Mapping[str, Confusions], about: Any = None) -> None:
    """Write the confusion matrices of several artefacts, and a JSON value, to one compressed .npz file, atomically."""
    arrays: dict[str, NDArray[np.integer]] = {
        f"{side}.{name}": values for side, found in sides.items() for name, values in found.arrays().items()
    }
    if about is not None:
        arrays[_ABOUT] = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_confusions(path: Path) -> dict[str, Confusions]:
    """Read what ``save_confusions`` wrote; the file may be anyone's: nothing is unpickled, and sizes are checked before memory is taken.

    Raises:
        UserError: missing, damaged, larger than 1 GiB when unpacked, or arrays that do not fit together.
    """
    return load_with_about(path)[0]


def load_with_about(path: Path) -> tuple[dict[str, Confusions], Any]:
    """The same, and the JSON value beside them; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive)
        with np.load(path, allow_pickle=False) as stored:
            sides = dict.fromkeys(name.rpartition(".")[0] for name in stored.files if name != _ABOUT)
            about = json.loads(stored[_ABOUT].tobytes()) if _ABOUT in stored.files else None
            return {side: _read_side(stored, side) for side in sides}, about
    except (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        # RuntimeError: an encrypted member, or one packed in a way that zipfile does not know
        raise UserError(f"{path} holds no confusion matrices of images ({error}).", "Validate again: segc validate") from error


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to too much, and arrays that say they are larger than they are."""
    size = sum(member.file_size for member in archive.infolist())
    if size > _LARGEST_FILE:
        raise ValueError(f"{size} bytes when unpacked, at most {_LARGEST_FILE} are read")
    for member in archive.infolist():
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            told = int(np.prod([int(length) for length in shape], dtype=object)) * dtype.itemsize
            if told > member.file_size or dtype.kind != "u":
                raise ValueError(f"{member.filename} says it holds {shape} values of {dtype}")


def _read_side(stored: Mapping[str, NDArray[np.integer]], side: str) -> Confusions:
    classes = int(stored[f"{side}.classes"])
    if not 0 < classes < 2**16:
        raise ValueError(f"{classes} classes")
    return Confusions.from_arrays(classes, *(stored[f"{side}.{name}"] for name in ("ends", "cells", "counts")))
