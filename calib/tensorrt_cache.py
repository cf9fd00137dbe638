"""TensorRT's legacy calibration cache, which TensorRT 10 and older read instead of running an ``IInt8Calibrator``.

Text: a first line that names the version and the calibrator, then ``tensor: scale`` with the scale as the hexadecimal bits of a float32.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segc.core.errors import UserError
from segc.core.files import write_bytes

LEVELS = 127
HEADER = "TRT-{version}-EntropyCalibration2"
DEFAULT_VERSION = 100300
_FIRST = re.compile(r"TRT-\d+-\w+")
_LINE = re.compile(r"(.+): ([0-9a-f]{1,8})")


def write_cache(path: Path | str, ranges: Mapping[str, float], version: int = DEFAULT_VERSION) -> None:
    """Write ranges (tensor -> amax) as a cache, atomically.

    Args:
        version: of the TensorRT that reads it, as major * 10000 + minor * 100 + patch: it refuses another one's cache.
    """
    scales = {name: struct.pack(">f", (amax or 1.0) / LEVELS).hex() for name, amax in ranges.items()}
    lines = [HEADER.format(version=version), *(f"{name}: {scale}" for name, scale in scales.items())]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_cache(path: Path | str) -> dict[str, float]:
    """Ranges (tensor -> amax) of a cache.

    Raises:
        UserError: missing, not a cache, or a scale that is not positive and finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"calibration cache {path} does not exist.")
    lines = path.read_bytes().decode(errors="replace").splitlines()
    if not lines or not _FIRST.fullmatch(lines[0].strip()):
        raise UserError(f"{path} is no TensorRT calibration cache: its first line is not like {HEADER.format(version=DEFAULT_VERSION)}.")
    return dict(_entry(path, number, line) for number, line in enumerate(lines[1:], 2) if line.strip())


def _entry(path: Path, number: int, line: str) -> tuple[str, float]:
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise UserError(f"{path}, line {number}: {line[:60]!r} is not 'tensor: hexadecimal float32'.")
    scale = struct.unpack(">f", bytes.fromhex(found[2].zfill(8)))[0]
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(f"{path}, line {number}: the scale of {found[1]} is {scale}; expected a positive number.")
    return found[1], scale * LEVELS
