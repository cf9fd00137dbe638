"""Writing a video file whose pictures come at uneven times."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segc.core.errors import UserError
from segc.runtime.images import Image
from segc.runtime.segmenter import resize_image


class Recording:
    """An mp4 of constant rate; its size is that of the first picture.

    Args:
        path: the file; ``close`` finishes it.
        fps: pictures/s, above 0.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last: Image | None = None
        self.pictures = 0

    def write(self, image: Image, seconds: float | None = None) -> None:
        """Append uint8 RGB (H, W, 3), shown from ``seconds`` after the start on; the picture before it is repeated until then.

        None appends it directly after the one before. A picture that is due before the next free place is left out. Odd sizes lose their
        last row or column, which the codec cannot hold.

        Raises:
            UserError: OpenCV cannot write mp4 files here.
        """
        place = self.pictures if seconds is None else round(seconds * self._fps)
        if self._writer is None:
            self._size = (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2)
            self._writer = self._open()
        while self._last is not None and self.pictures < place:
            self._append(self._last)
        if place >= self.pictures:
            self._append(image)
        self._last = image

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def _open(self) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._path), codec, self._fps, (self._size[1], self._size[0]))
        if not writer.isOpened():
            raise UserError("OpenCV here cannot write mp4 video.", "Use --save classmap,json without --record.")
        return writer

    def _append(self, image: Image) -> None:
        height, width = self._size
        fits = image.shape[0] - height in (0, 1) and image.shape[1] - width in (0, 1)
        image = image[:height, :width] if fits else resize_image(image, self._size)
        assert self._writer is not None
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
        self.pictures += 1
