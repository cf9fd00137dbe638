"""kill -9 at random moments, and the same command again: it ends with the files of an attempt that nobody disturbed, to the byte.

    SEGC_KILLS=200 pytest tests/test_kill.py

The moments come from a seed; which line of work they hit depends on the machine. Kills that came after the end are not counted.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from smallnet import HEIGHT, WIDTH, linked_set, small_bundle

from segc.data.render import RenderOptions, render_dataset

KILLS, SEED = int(os.environ.get("SEGC_KILLS", "3")), 7
IMAGES = 600
_TIMES = {"seconds", "time", "images/s", "date", "created"}
Kept = dict[str, bytes]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "segc.cli.main", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(words: list[str]) -> float:
    """Seconds of an attempt that nobody disturbs."""
    begun = time.monotonic()
    process = start(words)
    _, told = process.communicate()
    assert process.returncode in (0, 1), told.decode()  # 1: the gate's answer is no
    return time.monotonic() - begun


def kill_and_resume(words: list[str], clear: Callable[[], None], kept: Callable[[], Kept], kills: int, seed: int) -> int:
    """Kill the command at random moments, finish it after every few, and compare; how many kills came before the end."""
    rng, done = random.Random(seed), 0
    clear()
    longest = finish(words)
    expected = kept()
    assert expected
    while done < kills:
        clear()
        for _ in range(rng.randint(1, 3)):
            process = start(words)
            time.sleep(rng.uniform(0.1, 1.0) * longest)
            process.kill()
            process.communicate()
            done += process.returncode == -9
        finish(words)
        found = kept()
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
    print(f"{done} kills")
    return done


def without_times(path: Path) -> bytes:
    """A file; of JSON what does not tell of time."""
    if path.suffix != ".json":
        return path.read_bytes()

    def told(value: object) -> object:
        if isinstance(value, dict):
            return {key: told(each) for key, each in value.items() if key not in _TIMES}
        return (
            [told(each) for each in value if not (isinstance(each, dict) and each.get("metric") in _TIMES)]
            if isinstance(value, list)
            else value
        )

    return json.dumps(told(json.loads(path.read_text()))).encode()


def content(folder: Path, *patterns: str) -> Kept:
    paths = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): without_times(path) for path in paths}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of many names for a few photographs."""
    label = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), np.uint8)
    return linked_set(tmp_path_factory.mktemp("set"), IMAGES, label)


@pytest.mark.parametrize("workers", [1, 2])
def test_validate(tmp_path: Path, many: Path, workers: int) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    words = ["validate", str(bundle), "--against", str(bundle), "--data", str(many), "--threads", "2", "--resamples", "200"]
    kills = kill_and_resume(
        [*words, "--workers", str(workers)],
        lambda: shutil.rmtree(bundle / "results", ignore_errors=True),
        lambda: content(bundle, "results/*"),
        KILLS if workers == 1 else max(1, KILLS // 2),
        SEED + workers,
    )
    assert kills >= KILLS // 2


@pytest.mark.slow
def test_run(tmp_path: Path) -> None:
    """A whole recipe, its training too; what is compared is all that is no measurement of time."""
    street = render_dataset(tmp_path / "street", RenderOptions(width=96, height=64, train=6, val=3))
    overrides = {
        "train_dataloader.batch_size": 2,
        "default_hooks.checkpoint.interval": 1,
        "train_cfg.max_iters": 4,
        "train_cfg.val_interval": 2,
    }
    recipe = {
        "name": "killed",
        "config": "segc::quickstart/quickstart.py",
        "train": {"overrides": overrides},
        "data": {"root": str(street)},
        "calibrate": {"count": 4},
        "quantize": {"least_agreement": 0},
        "validate": {"min_gain": 0, "max_drop": 100},
        "benchmark": {"runs": 2, "warmup": 0},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    work = tmp_path / "work"
    kills = kill_and_resume(
        ["run", str(tmp_path / "r.yaml"), "--work-dir", str(work)],
        lambda: shutil.rmtree(work, ignore_errors=True),
        lambda: content(work, "train/best.safetensors", "bundle/*.onnx", "bundle/calibration.json", "bundle/results/validation.*"),
        KILLS,
        SEED,
    )
    assert kills >= KILLS // 2
