"""^C as a user gives it: a real SIGINT at a random moment of the work. Then the old file is there or the new one, and nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from smallnet import HEIGHT, WIDTH, linked_set, small_bundle

from segc.calib.calibrate import calibrate
from segc.runtime.bundle import graph_path, read_manifest

COPIES = 400
INTERRUPTED = 130


def start(words: list[str], library: str) -> subprocess.Popen[str]:
    """Start segc and wait until it has loaded ``library``: from then on the verb itself is at work."""
    command = [sys.executable, "-m", "segc.cli.main", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while process.poll() is None and library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < end, f"{library} is not loaded within a minute"
        time.sleep(0.01)
    return process


def interrupt(words: list[str], library: str, after: float) -> int:
    """Exit code of a command that gets SIGINT ``after`` seconds of work; what it tells is checked."""
    process = start(words, library)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode == -signal.SIGINT and json.loads(out)["verdict"] == "passed":
        return 0  # ^C came after the verdict
    assert process.returncode in (0, INTERRUPTED), err
    if process.returncode == INTERRUPTED:
        assert json.loads(out)["verdict"] == "interrupted" and "interrupted: nothing is half-written" in err
    return process.returncode


def moments(count: int, longest: float) -> list[float]:
    """Random moments, the first of them at once; another draw every time."""
    return [0.0, *(random.uniform(0, longest) for _ in range(count - 1))]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set of many names for a few photographs: enough work to be interrupted in."""
    return linked_set(tmp_path_factory.mktemp("set"), COPIES, np.zeros((HEIGHT, WIDTH), np.uint8))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    bundle = small_bundle(tmp_path_factory.mktemp("calibrated") / "bundle")
    calibrate(bundle, sorted((data / "images" / "val").iterdir()), count=3, threads=1)
    return bundle


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path) -> Path:
    shutil.copytree(calibrated, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_calibrate(bundle: Path, data: Path) -> None:
    before = content(bundle)
    words = ["calibrate", str(bundle), "--images", str(data / "images" / "val"), "--count", str(COPIES), "--threads", "1", "--json"]
    for after in moments(2, 0.5):
        code = interrupt(words, "onnxruntime", after)
        found = content(bundle)
        assert set(found) == set(before), "no temporary file is left"
        assert (found["calibration.json"] == before["calibration.json"]) == (code == INTERRUPTED)


def test_export_int8(bundle: Path, data: Path) -> None:
    before = content(bundle)
    words = ["export", str(bundle), "--precision", "int8", "--images", str(data / "images" / "val"), "--json"]
    for after in moments(2, 0.5):
        code = interrupt(words, "onnxruntime", after)
        found = content(bundle)
        whole = "int8" in read_manifest(bundle).graphs
        assert whole or code == INTERRUPTED
        assert set(found) - {"model.int8.onnx"} == set(before) and found["model.onnx"] == before["model.onnx"]
        if whole:
            graph_path(bundle, read_manifest(bundle), "int8")


def test_validate(bundle: Path, data: Path) -> None:
    words = ["validate", str(bundle), "--data", str(data), "--threads", "1", "--json"]
    for after in moments(2, 0.3):
        code = interrupt(words, "onnxruntime", after)
        results = list(bundle.glob("results/*.json"))
        assert (len(results) == 1) == (code == 0)
        assert all(json.loads(path.read_text())["dataset"]["n"] == COPIES for path in results)
        assert code == 0 or all(path.suffix == ".npz" for path in bundle.glob("results/*.parts/*")), "only whole parts are left"
        shutil.rmtree(bundle / "results", ignore_errors=True)


def test_export_keeps_the_old_bundle(bundle: Path, data: Path) -> None:
    before = content(bundle)
    config = "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py"
    options = ["--random-weights", "--input-size", "64x64", "--network-size", "input", "--images", str(data / "images" / "val")]
    code = interrupt(["export", config, *options, "-o", str(bundle), "--json"], "libtorch", random.uniform(0, 2))
    assert code == INTERRUPTED and content(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"], "no temporary folder is left"


def test_data_make(tmp_path: Path) -> None:
    for after in moments(2, 0.5):
        assert interrupt(["data", "make", str(tmp_path / "street"), "--json"], "cv2", after) == INTERRUPTED
        assert not list(tmp_path.iterdir()), "no half-made set is left"
