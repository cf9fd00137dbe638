"""Read a label image unchanged: one channel of class values, palette files by their index and not by their colour."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.images import decode_image, read_image_bytes

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_HEADER = slice(8, 33)  # length, "IHDR", 13 bytes, CRC: always the first chunk


def read_stored_label(path: Path | str) -> NDArray[np.integer]:
    """Stored values of a label file, (H, W) uint8 or uint16: what Pillow and mmseg's ``LoadAnnotations`` read, without its cut to 8 bits.

    Raises:
        UserError: missing, empty, cut off, not an image, more than one channel, or not 8 or 16 bits deep.
    """
    data = read_image_bytes(path)
    depth = _palette_depth(data)
    stored = decode_image(path, _as_grey(data) if depth else data, cv2.IMREAD_UNCHANGED)
    if stored.ndim == 3 and stored.shape[2] == 1:
        stored = stored[:, :, 0]
    if stored.ndim != 2:
        raise UserError(
            f"label {path} has {stored.shape[2]} channels, expected one channel of class values.",
            "Convert the colours to class values first; a picture coloured by a palette is not a label.",
        )
    if stored.dtype not in (np.uint8, np.uint16):
        raise UserError(f"label {path} holds {stored.dtype} values, expected 8 or 16 bit integers.")
    # A decoder widens 1, 2 and 4 bit grey to the full range; undo it, the index is meant.
    return stored // np.uint8(255 // ((1 << depth) - 1)) if depth in (1, 2, 4) else stored


def _palette_depth(data: bytes) -> int:
    """Bits per index of a palette PNG; 0 for any other file."""
    if not data.startswith(_PNG) or data[12:16] != b"IHDR" or len(data) < 33 or data[25] != _PALETTE:
        return 0
    return data[24]


def _as_grey(data: bytes) -> bytes:
    """The same PNG declared grey, without the palette: the pixel stream of both kinds is equal, and OpenCV expands only palettes."""
    header = data[12:25] + bytes([_GREY]) + data[26:29]
    chunks = [data[:12], header, struct.pack(">I", zlib.crc32(header))]
    at = _HEADER.stop
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in (b"IDAT", b"IEND"):
            chunks.append(data[at:end])
        at = end
    return b"".join(chunks)
