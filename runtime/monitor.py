"""Watch the GPU while something is measured: nvidia-smi or tegrastats in a process of its own, read by a thread."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from segc.runtime.readings import SMI_FIELDS, Reading, read_nvpmodel, read_smi, read_tegrastats

_INTERVAL_MS = 50
_WAIT_S = 10


class Monitor:
    """Readings of the GPU with the time of each (``time.perf_counter``), taken until the block ends; none where there is no GPU."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, Reading]] = []
        found = _source()
        self._process: subprocess.Popen[str] | None = None
        if found is not None:
            command, read = found
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )  # a session of its own: ^C is the parent's
            threading.Thread(target=self._follow, args=(read,), daemon=True).start()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def rows(self, spans: Sequence[tuple[float, float]], images: int) -> list[tuple[str, float, str, int]]:
        """(metric, value, unit, n) of what was read within ``spans``, in which ``images`` were run; nothing where nothing was read."""
        inside = [reading for at, reading in list(self.readings) if any(start <= at <= end for start, end in spans)]
        power = [reading.power_w for reading in inside if reading.power_w is not None]
        clock = [reading.clock_mhz for reading in inside if reading.clock_mhz is not None]
        heat = [reading.temperature_c for reading in inside if reading.temperature_c is not None]
        rows: list[tuple[str, float, str, int]] = []
        if power:
            seconds = sum(end - start for start, end in spans)
            rows = [("power_mean", statistics.fmean(power), "W", len(power))]
            rows.append(("energy_per_image", statistics.fmean(power) * seconds / images, "J", len(power)))
        rows += [("gpu_clock_median", statistics.median(clock), "MHz", len(clock))] if clock else []
        rows += [("gpu_temperature_max", max(heat), "degC", len(heat))] if heat else []
        return rows + ([("slowed_down_share", 100 * _slowed(inside), "%", len(inside))] if inside else [])

    def _follow(self, read: Callable[[str], Reading]) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.readings.append((time.perf_counter(), read(line)))


def device_state() -> dict[str, Any]:
    """What has to be equal for two numbers to be compared: GPU, driver, and Jetson's power mode or the power limit; empty without a GPU."""
    if shutil.which("nvpmodel"):
        return {"power_mode": read_nvpmodel(_told(["nvpmodel", "-q"]))}
    told = _told(["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader", "--id=0"])
    fields = [part.strip() for part in told.splitlines()[0].split(",")] if told else []
    return dict(zip(("gpu", "driver", "power_limit"), fields, strict=True)) if len(fields) == 3 else {}


def gpu_memory(process: int) -> float | None:
    """MiB of GPU memory that a process has, None where the driver does not tell (Jetson, some containers)."""
    for line in _told(["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]).splitlines():
        number, _, memory = line.partition(",")
        if number.strip() == str(process) and memory.strip().isdecimal():
            return float(memory)
    return None


def _source() -> tuple[list[str], Callable[[str], Reading]] | None:
    if shutil.which("tegrastats"):
        return ["tegrastats", "--interval", str(_INTERVAL_MS)], read_tegrastats
    if shutil.which("nvidia-smi") and device_state():
        return ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits", "--id=0", f"-lms={_INTERVAL_MS}"], read_smi
    return None


def _told(command: list[str]) -> str:
    """What a command prints; nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    return done.stdout if done.returncode == 0 else ""


def _slowed(readings: list[Reading]) -> float:
    return sum(bool(reading.slowdowns) for reading in readings) / len(readings)
