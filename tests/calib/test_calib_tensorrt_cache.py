"""TensorRT's calibration cache: the published form, a round trip, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smallnet import photos, small_bundle
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.calib.table import read_table
from segc.calib.tensorrt_cache import read_cache, write_cache
from segc.cli.main import app
from segc.compress.quantize import quantize_bundle
from segc.core.errors import UserError


def test_the_published_form(tmp_path: Path) -> None:
    """A line as NVIDIA's samples show it: 3c010a14 are the bits of 0.0078759380, an image scaled to [-1, 1] and a little more."""
    path = tmp_path / "int8.cache"
    path.write_text("TRT-8501-EntropyCalibration2\ndata: 3c010a14\n(Unnamed Layer* 3) [Conv]_output: 3d3ae2b5\n")
    assert read_cache(path)["data"] / 127 == pytest.approx(0.00787593796849251, rel=1e-12)
    write_cache(path, {"data": 127.0}, version=8501)
    assert path.read_text() == "TRT-8501-EntropyCalibration2\ndata: 3f800000\n"


@given(st.dictionaries(st.text("ab./_:0 ", min_size=1).map(lambda name: f"n{name}n"), st.floats(1e-30, 1e30)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, ranges: dict[str, float]) -> None:
    path = tmp_path_factory.mktemp("cache") / "c"
    write_cache(path, ranges)
    assert read_cache(path) == pytest.approx(ranges, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no TensorRT calibration cache"),
        (b"\x80\x04pickle", "no TensorRT calibration cache"),
        (b"TRT-8501-EntropyCalibration2\ndata 3c010a14\n", "line 2: 'data 3c010a14'"),
        (b"TRT-8501-EntropyCalibration2\na: 3f800000\ndata: 7fc00000\n", "line 3: the scale of data is nan"),
        (b"TRT-8501-EntropyCalibration2\ndata: 0\n", "line 2: the scale of data is 0"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_cache(path)


def test_out_to_tensorrt_and_back(tmp_path: Path) -> None:
    bundle, images = small_bundle(tmp_path / "bundle"), photos(tmp_path)
    cache = tmp_path / "int8.cache"
    words = ["calibrate", str(bundle)]
    assert CliRunner().invoke(app, [*words, "--images", str(tmp_path), "--to-cache", str(cache)]).exit_code == 0
    ranges = read_table(bundle / "calibration.json").ranges
    assert CliRunner().invoke(app, [*words, "--from-cache", str(cache)]).exit_code == 0
    table = read_table(bundle / "calibration.json")
    assert table.method == "tensorrt-cache" and table.ranges == pytest.approx(ranges, rel=1e-6)
    assert "int8" in quantize_bundle(bundle, images=images).graphs
    cache.write_text("TRT-8501-EntropyCalibration2\nother: 3f800000\n")
    refused = CliRunner().invoke(app, [*words, "--from-cache", str(cache)])
    assert refused.exit_code == 2 and "none of the 1 tensors" in refused.stderr
    assert calibrate(bundle, images, threads=1).is_file()
