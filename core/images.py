"""Decode an image file as mmseg does: 8-bit, three channels, EXIF orientation applied, RGB; anything else is a clear error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import write_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

Image = NDArray[np.uint8]

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


def read_image(path: Path | str) -> Image:
    """Read an image as uint8 (H, W, 3), RGB.

    Grey images get three equal channels, alpha is dropped, 16-bit samples keep their upper 8 bits, the EXIF orientation is applied:
    OpenCV's ``IMREAD_COLOR``, which mmcv's ``imread`` uses.

    Raises:
        UserError: the file is missing, a folder, empty, truncated, not an image, or larger than OpenCV decodes (2^30 pixels).
    """
    image = decode_image(path, read_image_bytes(path), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def decode_image(path: Path | str, data: bytes, flag: int) -> NDArray[Any]:
    """Decode ``data``, the content of ``path``, with an ``IMREAD_*`` flag of OpenCV.

    Raises:
        UserError: OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in str(error):
            raise UserError(f"{path} says that it has too many pixels.", "Where you trust it: OPENCV_IO_MAX_IMAGE_PIXELS=...") from error
        raise UserError(f"{path} cannot be decoded: {str(error).strip().splitlines()[0]}") from error
    if image is None:
        raise UserError(f"{path} is not an image OpenCV can decode, or it is damaged.", f"Expected one of: {', '.join(SUFFIXES)}.")
    return image


def write_image(path: Path | str, image: NDArray[np.integer]) -> None:
    """Write uint8 or uint16 pixels (H, W) or RGB (H, W, 3) atomically; the suffix chooses the format."""
    write_bytes(path, encode_image(Path(path).suffix, image))


def encode_image(suffix: str, image: NDArray[np.integer], options: Sequence[int] = ()) -> bytes:
    """Content of an image file with uint8 or uint16 pixels (H, W) or RGB (H, W, 3); ``options`` are OpenCV's ``IMWRITE_*`` pairs.

    Raises:
        UserError: OpenCV does not write files of that suffix.
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        done, data = cv2.imencode(suffix, pixels, list(options))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"OpenCV does not write {suffix!r} files.", f"Expected one of: {', '.join(SUFFIXES)}.")
    return data.tobytes()


def read_image_bytes(path: Path | str) -> bytes:
    """Content of an image file.

    Raises:
        UserError: it is missing, a folder, empty or cut off.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image.")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"image {path} does not exist.") from error
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {error.strerror}.") from error
    if not data:
        raise UserError(f"image {path} is empty (0 bytes).")
    _refuse_truncated(path, data)
    return data


def _refuse_truncated(path: Path, data: bytes) -> None:
    """OpenCV decodes a cut-off JPEG or PNG into a picture with a grey rest and says nothing."""
    tail = data[-4096:]
    cut = (data.startswith(_JPEG_START) and _JPEG_END not in tail) or (data.startswith(_PNG_START) and _PNG_END not in tail)
    if cut:
        raise UserError(f"image {path} is truncated: its end marker is missing after {len(data)} bytes.", "Copy or download it again.")
