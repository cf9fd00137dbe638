"""A training as a process: ^C, a kill, and the same command again; two processes under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segc.cli.main import app
from segc.models.checkpoint import read_checkpoint
from segc.models.network import load_network
from segc.train.trainer import train

QUICKSTART = "segc::quickstart/quickstart.py"
LONG = 500


def _start(words: list[str], *launcher: str) -> subprocess.Popen[str]:
    command = [*(launcher or (sys.executable,)), "-m", "segc.cli.main", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def _wait_for(work: Path, process: subprocess.Popen[str], iterations: int) -> None:
    """Until some checkpoint of at least ``iterations`` is there."""
    end = time.monotonic() + 60
    while not any(int(path.stem[5:]) >= iterations for path in work.glob("iter_*.pth")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint within a minute"
        time.sleep(0.02)


def _resumed_from(work: Path) -> int:
    return int(json.loads((work / "train.json").read_text())["rows"][0]["conditions"]["resumed_from"])


def _last(work: Path) -> int:
    return max(int(path.stem[5:]) for path in work.glob("iter_*.pth"))


def test_control_c_keeps_the_state_and_the_same_command_goes_on(typed: list[str], tmp_path: Path) -> None:
    words = [*typed, "--work-dir", str(tmp_path), "--json"]
    process = _start([*words, "-o", f"train_cfg.max_iters={LONG}"])
    _wait_for(tmp_path, process, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["verdict"] == "interrupted"
    assert "Traceback" not in err and "Warning" not in err
    last = _last(tmp_path)
    assert read_checkpoint(tmp_path / f"iter_{last}.pth").meta["iter"] == last
    again = CliRunner().invoke(app, [*words, "-o", f"train_cfg.max_iters={last + 1}"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["data"]["iterations"] == last + 1
    assert _resumed_from(tmp_path) == last
    assert len(again.stderr.splitlines()) < 10, f"stderr is flooded: {again.stderr}"


def test_a_killed_training_goes_on_from_its_last_checkpoint(typed: list[str], tiny: dict[str, Any], tmp_path: Path) -> None:
    process = _start([*typed, "--work-dir", str(tmp_path), "-o", f"train_cfg.max_iters={LONG}"])
    _wait_for(tmp_path, process, 3)
    process.kill()
    process.communicate()
    last = _last(tmp_path)
    result = train(QUICKSTART, {**tiny, "train_cfg.max_iters": last + 1}, tmp_path)
    assert (result.resumed_from, result.iterations) == (last, last + 1)


@pytest.mark.slow
def test_two_processes_on_the_cpu_write_one_result(typed: list[str], tmp_path: Path, miou_of: Callable[[Path], float]) -> None:
    words = [*typed, "--work-dir", str(tmp_path), "--launcher", "pytorch", "--json"]
    torchrun = (str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2")
    process = _start(words, *torchrun)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = json.loads(out)["data"]
    assert told["iterations"] == 4
    assert len(list(tmp_path.rglob("*.log"))) == len(list(tmp_path.rglob("events.out*"))) == 1
    assert err.count("training: 4/4") == 1
    assert not any(name.startswith("module.") for name in read_checkpoint(told["weights"]).state)
    assert load_network(None, told["weights"]).classes[0] == "sky"
    assert told["mIoU_percent"] == pytest.approx(miou_of(Path(told["weights"])), abs=0.006)
    again = _start(words, *torchrun)
    assert json.loads(again.communicate(timeout=120)[0])["data"] == told


@pytest.mark.slow
def test_control_c_stops_both_processes_at_one_iteration(typed: list[str], tmp_path: Path) -> None:
    words = [*typed, "--work-dir", str(tmp_path), "--launcher", "pytorch"]
    torchrun = (str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2")
    process = _start([*words, "-o", f"train_cfg.max_iters={LONG}"], *torchrun)
    _wait_for(tmp_path, process, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and err.count("stopping after") == 1, err
    last = _last(tmp_path)
    again = _start([*words, "-o", f"train_cfg.max_iters={last + 1}"], *torchrun)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert _resumed_from(tmp_path) == last
