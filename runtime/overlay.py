"""Pictures and areas of a class map: overlay with palette and legend, palette-coloured map, share of each class."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.runtime.images import Image

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER, _INK = (250, 250, 250), (30, 30, 30)
_LEAST_HEIGHT = 64


def class_areas(class_map: NDArray[Any], contract: Contract) -> dict[str, dict[str, float]]:
    """class -> {"pixels", "share"} (share of the image, 0..1), classes that occur only, largest first."""
    counts = np.bincount(class_map.ravel(), minlength=contract.num_classes)
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {contract.classes[index]: {"pixels": int(counts[index]), "share": float(counts[index] / class_map.size)} for index in order}


def colour_map(class_map: NDArray[Any], contract: Contract) -> Image:
    """uint8 RGB (H, W, 3) of a class map in the contract's palette."""
    return np.asarray(contract.palette, np.uint8)[class_map]


def draw_overlay(image: Image, class_map: NDArray[Any], contract: Contract, opacity: float = 0.5) -> Image:
    """The image under its class colours, a legend of the classes in it at the right: uint8 RGB (H, W + legend, 3).

    The legend's width depends on the contract and the height only, so that all frames of a video have one size. Images lower than
    64 pixels get none.
    """
    mixed = cv2.addWeighted(colour_map(class_map, contract), opacity, image, 1 - opacity, 0).astype(np.uint8, copy=False)
    if image.shape[0] < _LEAST_HEIGHT:
        return mixed
    return np.hstack([mixed, _legend(class_areas(class_map, contract), contract, image.shape[0])])


def draw_text(image: Image, text: str) -> Image:
    """The image with one line of text on a dark band at its top left: uint8 RGB (H, W, 3)."""
    row = int(np.clip(image.shape[0] // 20, 14, 100))
    width = cv2.getTextSize(text, _FONT, row / 40, max(1, row // 30))[0][0]
    marked = image.copy()
    cv2.rectangle(marked, (0, 0), (width + row, row), _INK, -1)
    cv2.putText(marked, text, (row // 2, row * 3 // 4), _FONT, row / 40, _PAPER, max(1, row // 30), cv2.LINE_AA)
    return marked


def _legend(areas: dict[str, dict[str, float]], contract: Contract, height: int) -> Image:
    row = int(np.clip(height // 20, 14, 100))
    scale, thickness = row / 40, max(1, row // 30)
    longest = max(cv2.getTextSize(f"{name} 100.0%", _FONT, scale, thickness)[0][0] for name in contract.classes)
    panel = np.full((height, (longest + 3 * row + 1) // 2 * 2, 3), _PAPER, np.uint8)
    fits = height // row - 1
    for index, (name, area) in enumerate(list(areas.items())[:fits]):
        top = row // 2 + index * row
        colour = tuple(int(value) for value in contract.palette[contract.classes.index(name)])
        cv2.rectangle(panel, (row // 2, top + row // 6), (row // 2 + row, top + row - row // 6), colour, -1)
        text = f"{name} {100 * area['share']:.1f}%"
        cv2.putText(panel, text, (2 * row, top + row * 3 // 4), _FONT, scale, _INK, thickness, cv2.LINE_AA)
    return panel
