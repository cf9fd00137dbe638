"""Where a mean over all pixels looks away: class borders and small things. Every place is a confusion matrix, scored like the whole image.

boundary: Boundary IoU (Cheng, Girshick, Dollar, Berg and Kirillov, CVPR 2021): IoU of the inner borders of a class in label and prediction,
    2 % of the image's diagonal wide. The paper erodes mask by mask; here one maximum and one minimum over the class map serve all classes:
    a pixel is at the inner border of its class exactly if another class, or the outside of the image, is that near.
band: IoU of the pixels near a border in the label (the trimap of Kohli, Ladicky and Torr, IJCV 2009; Chen et al., DeepLab, 2015).
small: recall of the connected regions of a class that have at most 32 x 32 pixels (COCO's "small"). A region counts as found where the
    prediction gives most of its pixels its class.

Borders with pixels that are not to count are borders; those pixels themselves do not count.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.validate.metrics import Confusion, confusion

PLACES = ("boundary", "band", "small")
BOUNDARY_RATIO, BAND_PIXELS, SMALL_PIXELS = 0.02, 5, 32 * 32

_SQUARE = np.ones((3, 3), np.uint8)
Map = NDArray[np.integer]
Mask = NDArray[np.bool_]


class Places:
    """The places of one label map (H, W) of train ids, found once for every prediction that is compared with it."""

    def __init__(self, label: Map, classes: int, ignore_index: int = 255) -> None:
        self._classes, self._label = classes, label
        # Two values beyond the classes: K, which is at no border, and K + 1, which does not count.
        self._dtype = np.uint8 if classes + 1 < 256 else np.uint16
        ignored = label == ignore_index
        known: Map = label.astype(self._dtype)
        known[ignored] = classes + 1
        self._distance = boundary_distance(label.shape)
        self._borders = inner_borders(known, self._distance, classes)
        self._borders[ignored] = classes + 1
        self._band = _marked(known, near_border(known, BAND_PIXELS, frame=False), classes + 1)
        regions = small_regions(known, classes)
        self._kinds = np.array([kind for kind, _ in regions], np.int64)
        self._pixels = np.concatenate([np.empty(0, np.int64), *(pixels for _, pixels in regions)])
        self._owners = np.repeat(np.arange(len(regions)), [len(pixels) for _, pixels in regions])

    def confusions(self, prediction: Map) -> dict[str, Confusion]:
        """Confusion matrices by place of a prediction (H, W): boundary (K + 1, K + 1), its last class "at no border"; the others (K, K)."""
        found: Map = prediction.astype(self._dtype, copy=False)
        borders = inner_borders(found, self._distance, self._classes)
        return {
            "boundary": confusion(borders, self._borders, self._classes + 1, self._classes + 1),
            "band": confusion(found, self._band, self._classes, self._classes + 1),
            "small": self._small(found),
        }

    def _small(self, found: Map) -> Confusion:
        """Regions by their class and the class that most of their pixels are given; of equals the first."""
        votes = self._owners * self._classes + found.ravel()[self._pixels]
        table = np.bincount(votes, minlength=len(self._kinds) * self._classes).reshape(-1, self._classes)
        pairs = self._kinds * self._classes + table.argmax(1)
        return np.bincount(pairs, minlength=self._classes**2).reshape(self._classes, self._classes)


def boundary_distance(shape: tuple[int, ...]) -> int:
    """Width of the boundary in pixels of an image (H, W): 2 % of the diagonal, at least 1."""
    return max(1, round(BOUNDARY_RATIO * math.hypot(*shape)))


def inner_borders(classes: Map, distance: int, other: int) -> Map:
    """The class map (H, W) with ``other`` wherever no border of a class, or of the image, is within ``distance``."""
    return _marked(classes, near_border(classes, distance), other)


def near_border(classes: Map, distance: int, frame: bool = True) -> Mask:
    """Pixels (H, W) with another class at most ``distance`` rows and columns away; with ``frame`` the outside of the image is another."""
    edge = (cv2.dilate(classes, _SQUARE) != cv2.erode(classes, _SQUARE)).view(np.uint8)
    if frame:
        edge[[0, -1]] = edge[:, [0, -1]] = 1
    reach = 2 * distance - 1
    return cv2.dilate(edge, np.ones((reach, reach), np.uint8)).view(np.bool_)


def small_regions(label: Map, classes: int) -> list[tuple[int, NDArray[np.int64]]]:
    """(class, flat indices of its pixels) of every 8-connected region of a class that has at most ``SMALL_PIXELS`` pixels."""
    found = []
    for kind in np.flatnonzero(np.bincount(label.ravel(), minlength=classes)[:classes]):
        mask = (label == kind).view(np.uint8)
        for contour in _short_outlines(mask):
            left, top, width, height = cv2.boundingRect(contour)
            parts = cv2.connectedComponents(mask[top : top + height, left : left + width], connectivity=8)[1]
            column, row = contour[0, 0]
            rows, columns = np.nonzero(parts == parts[row - top, column - left])
            if len(rows) <= SMALL_PIXELS:
                found.append((int(kind), (rows + top) * label.shape[1] + columns + left))
    return found


def _short_outlines(mask: NDArray[np.uint8]) -> list[Any]:
    """Outer contours (points, 1, 2) of a mask that a small region can have: an outline passes a pixel four times at most."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [
        contour
        for contour, (_, _, _, parent) in zip(contours, tree[0] if tree is not None else (), strict=True)
        if parent < 0 and len(contour) <= 4 * SMALL_PIXELS
    ]  # fmt: skip


def _marked(classes: Map, kept: Mask, other: int) -> Map:
    """The class map with ``other`` wherever it is not kept."""
    return np.where(kept, classes, classes.dtype.type(other))
