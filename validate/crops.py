"""Where inside an image one artefact lost most against another: the square windows that hold the most pixels it got wrong on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 1 / 4  # of the shorter side of the image


@dataclass(frozen=True)
class Crop:
    """A square window of an image, in pixels; ``lost``: labelled pixels in it that were right before minus those that are now."""

    top: int
    left: int
    side: int
    lost: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The window of (H, W) or (H, W, C)."""
        return picture[self.top : self.top + self.side, self.left : self.left + self.side]


def worst_crops(label: NDArray[Any], before: NDArray[Any], after: NDArray[Any], ignore_index: int, count: int) -> list[Crop]:
    """Up to ``count`` windows that do not overlap, most lost first, of class maps and label (H, W); none where nothing was lost.

    The window is moved pixel by pixel: its sums come from one integral image.
    """
    side = max(1, round(SIDE * min(label.shape)))
    counted = label != ignore_index
    lost = np.where(counted, (before == label).astype(np.int8) - (after == label).astype(np.int8), 0)
    table = cv2.integral(lost.astype(np.float32), sdepth=cv2.CV_64F)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    found: list[Crop] = []
    while len(found) < count and (most := int(sums.max())) > 0:
        top, left = (int(each) for each in np.unravel_index(int(sums.argmax()), sums.shape))
        found.append(Crop(top, left, side, most))
        sums[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = -np.inf
    return found
