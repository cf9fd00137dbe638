"""A few thousand damaged files a reader; ``python tests/fuzzing.py`` reads many more and stores the counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzzing import Reader, fuzz, readers

from segc.core.errors import UserError

INPUTS = int(os.environ.get("SEGC_FUZZ", "100"))
_NAMES = (
    "bundle.json graph recipe dataset.json calibration.json label confusions condition checkpoint.safetensors checkpoint.pth checkpoint.pkl"
)
_ENDS = (".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm")
NAMES = [*_NAMES.split(), "palette label", "config text", *(f"image{end}" for end in _ENDS)]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("sound"))


def test_all_readers_are_fuzzed(every: dict[str, Reader]) -> None:
    assert set(NAMES) == set(every)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused(name: str, every: dict[str, Reader], tmp_path: Path) -> None:
    reader = every[name]
    found = fuzz(reader, tmp_path, INPUTS, seed=1)
    assert not found.failures, found.failures[0]
    assert found.ends["refused"], "a fuzzer that damages nothing shows nothing"
    path = tmp_path / reader.name
    path.write_bytes(reader.sound)
    if name != "bundle.json":  # its graph is not beside it
        reader.read(path)


def test_another_exception_and_a_hang_are_seen(tmp_path: Path) -> None:
    def wrong(path: Path) -> None:
        raise (UserError("x"), KeyError("y"))[len(path.read_bytes()) % 2]

    found = fuzz(Reader(wrong, "x", b"0123456789"), tmp_path, 50, seed=0)
    assert found.ends["failed"] == len(found.failures) > 0 < found.ends["refused"]
