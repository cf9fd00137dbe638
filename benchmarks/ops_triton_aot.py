"""What every Triton kernel takes of every GPU we name: registers, shared memory, spills; and the seconds its compilation takes.

    python -m benchmarks.ops_triton_aot [WORD]

Needs no GPU. WORD keeps the kernels whose name contains it, and stores nothing. All of them: about half an hour on two cores the first
time, after which Triton's cache holds them (and the seconds say so). Stored after every kernel.
Results: benchmarks/results/ops_triton_aot.json.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops.triton_kernels import aot

RESULTS = Path(__file__).parent / "results" / "ops_triton_aot.json"
PROCESSES = 2


def main(arguments: list[str]) -> None:
    """Compile, print and store."""
    word = arguments[0] if arguments else ""
    names = [name for name in aot.examples() if word in name]
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, rows in zip(names, pool.map(measure, names), strict=True):
            print(f"{name:60s} {' '.join(_short(row) for row in rows)}", flush=True)
            found += rows
            if not word:
                _store(found, len(names))
    failed = [f"{row['kernel']} on {row['capability']}: {row['too_much']}" for row in found if row["too_much"]]
    print("\n".join(failed) or f"{len(found)} builds fit")
    sys.exit(bool(failed))


def measure(name: str) -> list[dict[str, Any]]:
    """Compile one kernel for every GPU; in a process of the pool."""
    launch, rows = aot.examples()[name], []
    for capability in filter(lambda capability: aot.runs_on(launch, capability), aot.CAPABILITIES):
        start = time.perf_counter()
        compiled = aot.compile_for(launch, capability)
        seconds, used = time.perf_counter() - start, aot.usage(compiled)
        rows.append({"kernel": name, "capability": capability, "warps": launch.num_warps, **vars(used)})
        rows[-1] |= {"too_much": aot.too_much(used, capability), "seconds": round(seconds, 2)}
    return rows


def summary(found: list[dict[str, Any]]) -> list[Row]:
    """The extremes for each GPU."""
    rows = []
    for capability in aot.CAPABILITIES:
        mine = [row for row in found if row["capability"] == capability]
        for metric, unit in (("registers", "a thread"), ("shared", "bytes"), ("stack", "bytes a thread")):
            value = max(row[metric] for row in mine)
            rows.append(Row(metric=f"most {metric}", value=value, unit=unit, n=len(mine), conditions={"capability": capability}))
    return rows


def _store(found: list[dict[str, Any]], kernels: int) -> None:
    """Write what there is: a run that is cut short keeps its rows and says that it is."""
    done = len({row["kernel"] for row in found})
    rows = [row.model_dump() for row in summary(found)]
    write_json(RESULTS, {"rows": rows, "kernels": found, "complete": done == kernels, "environment": environment()})


def _short(row: dict[str, Any]) -> str:
    return f"{row['capability']}:{row['registers']}/{row['shared']}/{row['stack']}"


if __name__ == "__main__":
    main(sys.argv[1:])
