"""Class maps on disk, by artefact and image: an artefact that several others are compared with runs once an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from segc.core.files import write_bytes
from segc.core.images import Image, encode_image
from segc.data.labels import read_stored_label
from segc.runtime.segmenter import ClassMap, Segmenter
from segc.validate.sides import Side

_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class MapStore:
    """The class maps that one artefact of K classes gave: a PNG of class indices an image, named by the artefact's key and the pixels."""

    def __init__(self, folder: Path, side: Side, classes: int) -> None:
        self._folder = folder / f"{side.key[:32]}.{classes}"

    def get(self, image: Image, run: Callable[[Image], ClassMap]) -> ClassMap:
        """The class map of uint8 RGB (H, W, 3); ``run`` makes it where the artefact has not seen the image.

        Raises:
            UserError: the file is damaged.
        """
        path = self._path(image)
        if path.is_file():
            return read_stored_label(path)
        found = run(image)
        _write(path, found)
        return found

    def put(self, image: Image, found: ClassMap) -> None:
        """Keep the class map (H, W) of an image."""
        _write(self._path(image), found)

    def _path(self, image: Image) -> Path:
        pixels = hashlib.sha256(f"{image.shape}".encode())
        pixels.update(image.tobytes())
        return self._folder / f"{pixels.hexdigest()}.png"


def _write(path: Path, found: ClassMap) -> None:
    small = np.uint8 if found.max(initial=0) <= 255 else np.uint16
    write_bytes(path, encode_image(".png", found.astype(small), _FAST))


class KeptMaps:
    """An artefact that is opened and run only for images whose class maps are not in the store yet."""

    def __init__(self, store: MapStore, opened: Callable[[], Segmenter]) -> None:
        self._store, self._opened = store, opened
        self._segmenter: Segmenter | None = None

    def class_map(self, image: Image) -> ClassMap:
        """Class index of every pixel of uint8 RGB (H, W, 3): (H, W)."""
        return self._store.get(image, self._run)

    def _run(self, image: Image) -> ClassMap:
        self._segmenter = self._segmenter or self._opened()
        return self._segmenter.class_map(image)
