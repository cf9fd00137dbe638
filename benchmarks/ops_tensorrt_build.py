"""What compiling the TensorRT plugin costs, and what its kernels take of each GPU: seconds, bytes, registers, spills.

    python -m benchmarks.ops_tensorrt_build [ARCH ...]

Needs nvcc and TensorRT's headers, no GPU. Without arguments it takes every GPU of the default list that this nvcc knows; some minutes.
Results: benchmarks/results/ops_tensorrt_build.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops.tensorrt import build
from segc.ops.tensorrt.resources import KernelResources, kernel_resources

RESULTS = Path(__file__).parent / "results" / "ops_tensorrt_build.json"


def main(arguments: list[str]) -> None:
    """Measure, print and store."""
    nvcc, headers = build.find_nvcc(), build.tensorrt_headers()
    arches = [int(item) for item in arguments] or build.supported_architectures(nvcc)
    conditions = {"nvcc": _nvcc_release(nvcc), "tensorrt_headers": "{}.{}".format(*build.headers_version(headers))}
    rows: list[Row] = []
    resources: list[KernelResources] = []
    for arch in arches:
        start = time.perf_counter()
        found = kernel_resources(nvcc, arch)
        rows.append(_row("compile kernels", time.perf_counter() - start, "s", {**conditions, "arch": arch}))
        resources += found
        spilled = [item.kernel for item in found if item.spill_store_bytes]
        print(f"sm_{arch}: {rows[-1].value:6.1f} s, most registers {max(item.registers for item in found)}, spills in {spilled or 'none'}")
    rows += _library_rows(headers, arches, conditions)
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "kernels": _table(resources), "environment": environment()})
    for row in rows[-2:]:
        print(f"{row.metric:40s} {row.value:8.1f} {row.unit}")


def _library_rows(headers: Path, arches: list[int], conditions: dict[str, Any]) -> list[Row]:
    """Compile the whole library, with a cache of its own so that it is not found there."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, SEGC_CACHE=folder):
        start = time.perf_counter()
        library = build.build_plugin(arches, headers)
        seconds, size = time.perf_counter() - start, library.stat().st_size
    together = {**conditions, "arch": arches, "ptx": arches[-1]}
    return [_row("compile library", seconds, "s", together), _row("library size", size / 2**20, "MiB", together)]


def _row(metric: str, value: float, unit: str, conditions: dict[str, Any]) -> Row:
    return Row(metric=metric, value=value, unit=unit, n=1, conditions=conditions)


def _table(resources: list[KernelResources]) -> list[dict[str, Any]]:
    return [asdict(item) for item in resources]


def _nvcc_release(nvcc: str) -> str:
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-2]


if __name__ == "__main__":
    main(sys.argv[1:])
