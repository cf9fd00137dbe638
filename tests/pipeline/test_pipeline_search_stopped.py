"""A search that is killed and interrupted goes on and ends as an undisturbed one, in this process and with Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

INTERRUPTED = 130


def start(bundle: Path, work: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segc.cli.main", "search", str(bundle), "--work-dir", str(work), "--max-drop", "5"]
    command += ["--runs", "2", "--threads", "1", "--json", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def stop(process: subprocess.Popen[str], work: Path, kept: int, how: signal.Signals) -> str:
    """Send a signal as soon as ``kept`` trials lie in the work folder; what it told on stdout."""
    end = time.monotonic() + 180
    while process.poll() is None and len(list((work / "trials").glob("*.json"))) < kept:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(how)
    told, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return told


def drops(told: str) -> dict[str, Any]:
    """Drop, bound and SQNR of every attempt by name: what does not depend on the clock, of the attempts that always are made."""
    found = json.loads(told)["data"]["attempts"]
    return {each["name"]: (each["drop"], each["upper"], each["sqnr_db"]) for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("ray", ["--no-ray", "--ray"])
def test_killed_interrupted_and_finished(labelled_bundle: Path, tmp_path: Path, ray: str) -> None:
    work = tmp_path / "stopped"
    killed = start(labelled_bundle, work, ray)
    stop(killed, work, 3, signal.SIGKILL)
    told = json.loads(stop(start(labelled_bundle, work, ray), work, 6, signal.SIGINT))
    assert told["verdict"] == "interrupted" and not (work / "graphs").exists() and not (work / "best").exists()
    before = {path: path.stat().st_mtime_ns for path in (work / "trials").iterdir()}
    told, errors = start(labelled_bundle, work, ray).communicate(timeout=300)
    assert "Traceback" not in errors and json.loads(told)["verdict"] in ("passed", "failed")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items()), "what was measured is not measured again"
    whole, _ = start(labelled_bundle, tmp_path / "whole", "--no-ray").communicate(timeout=300)
    ours, theirs = drops(told), drops(whole)
    assert ours["all int8"] == theirs["all int8"] and all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(work) in " ".join(process.info["cmdline"] or [])]
