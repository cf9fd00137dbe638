"""Results as data: one row a number, each with its unit, its sample count and the conditions it was measured under."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from segc.core.errors import UserError

_TOLD_PACKAGES = (
    "segc numpy opencv-python-headless opencv-python onnx onnxruntime onnxruntime-gpu openvino nncf torch "
    "onedl-mmengine onedl-mmcv onedl-mmsegmentation tensorrt tensorrt-rtx"
).split()


class Row(BaseModel):
    """One measured number.

    ``value`` is in ``unit`` ("%", "ms", "images/s", "MiB", "ratio"); ``n`` counts the samples behind it (images, runs).
    ``conditions`` holds what another person needs to measure it again (backend, precision, threads, size, warm-up).
    """

    model_config = ConfigDict(extra="forbid")

    metric: str
    value: float
    unit: str
    n: int
    conditions: dict[str, Any] = Field(default_factory=dict)


def value_of(result: Mapping[str, Any], metric: str) -> float:
    """The value of the first row of a stored result that has this metric.

    Raises:
        UserError: there is no such row.
    """
    for row in result.get("rows", []):
        if row["metric"] == metric:
            return float(row["value"])
    raise UserError(f"a stored result has no {metric!r} row.", "Measure again: segc validate, segc benchmark")


@cache
def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """The machine and the versions a number was measured with; JSON-ready."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _TOLD_PACKAGES if (version := package_version(name))},
    }
