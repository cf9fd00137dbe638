"""Which network passes which stage on this machine: train, export, run, int8, TensorRT-RTX.

    python -m benchmarks.support [NETWORK ...]

Each stage of each network of the catalogue runs in a process of its own with a limit of time and memory. A row that is stored for the
installed versions is not measured again. Rows: benchmarks/results/support.json; the table in docs/models.md is written from them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from benchmarks.support_stages import STAGES
from benchmarks.support_table import RESULTS, write_table
from segc.core.files import read_json, write_json
from segc.core.rows import environment
from segc.models.catalogue import catalogue

SECONDS, MIB = 1500.0, 8192
_POLL_S = 0.2
_VERSIONS = ("segc", "torch", "onnxruntime", "openvino", "tensorrt-rtx")


class SupportRow(BaseModel):
    """What became of one stage of one network. ``agreement`` is a share of pixels; ``reason`` is empty where the stage passed."""

    model_config = ConfigDict(extra="forbid")

    network: str
    stage: str
    versions: dict[str, str]
    agreement: float | None = None
    detail: str = ""
    reason: str = ""
    seconds: float
    peak_mib: float


def main(names: list[str]) -> None:
    """Measure the named networks (all when none is named), store every row at once, and write the table."""
    rows = {(row["network"], row["stage"]): row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    versions = {name: version for name, version in environment()["versions"].items() if name in _VERSIONS}
    for name in names or [entry.name for entry in catalogue()]:
        missing = [stage for stage in STAGES if rows.get((name, stage), {}).get("versions") != versions]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            if missing[0] not in ("train", "export") and not rows[name, "export"]["reason"]:
                run_stage(name, "export", Path(folder))
            for stage in missing:
                row = _row(name, stage, Path(folder), versions, rows)
                rows[name, stage] = row.model_dump()
                write_json(RESULTS, {"rows": list(rows.values()), "environment": environment()})
                write_table()
                told = row.reason or row.detail or row.agreement
                print(f"{name:20s} {stage:14s} {row.seconds:6.1f} s {row.peak_mib:6.0f} MiB  {told}", flush=True)


def _row(name: str, stage: str, folder: Path, versions: dict[str, str], rows: dict[Any, Any]) -> SupportRow:
    if stage not in ("train", "export") and rows[name, "export"]["reason"]:
        return SupportRow(network=name, stage=stage, versions=versions, reason="it is not exported", seconds=0, peak_mib=0)
    return SupportRow(network=name, stage=stage, versions=versions, **run_stage(name, stage, folder))


def run_stage(name: str, stage: str, folder: Path) -> dict[str, Any]:
    """One stage in a process of its own: what it told, its seconds and peak memory, or the reason why it was ended."""
    return run_limited([sys.executable, "-m", "benchmarks.support_stages", name, stage, str(folder)], SECONDS, MIB)


def run_limited(command: list[str], seconds: float, mib: float) -> dict[str, Any]:
    """Run a command that prints a JSON object as its last line; end it when it takes more time or memory (with its children) than told."""
    start, peak, reason = time.monotonic(), 0.0, ""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not reason:
            time.sleep(_POLL_S)
            peak = max(peak, _memory(process.pid))
            if time.monotonic() - start > seconds:
                reason = f"not done within {seconds:g} s"
            elif peak > mib:
                reason = f"needs more than {mib:g} MiB"
        if reason:
            _end(process)
        output.seek(0)
        lines = output.read().splitlines()
    if not reason and (process.returncode or not lines):
        reason = f"its process ended with code {process.returncode}"
    told = {"reason": reason} if reason else json.loads(lines[-1])
    return {**told, "seconds": round(time.monotonic() - start, 1), "peak_mib": round(peak)}


def _memory(pid: int) -> float:
    """Resident MiB of a process and its descendants; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(item.memory_info().rss for item in (process, *process.children(recursive=True))) / 2**20
    except psutil.Error:
        return 0.0


def _end(process: subprocess.Popen[bytes]) -> None:
    for item in psutil.Process(process.pid).children(recursive=True):
        item.kill()
    process.kill()
    process.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
