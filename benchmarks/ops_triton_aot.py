"""What every Triton kernel takes of every GPU we name: registers, shared memory, spills; and the seconds its compilation takes.

    python -m benchmarks.ops_triton_aot [WORD] [--seconds N] [--processes N]

Needs no GPU. WORD keeps the kernels whose name contains it. All of them: about an hour on two cores the first time, after which Triton's
cache holds them (and the seconds say so). Stored after every build: a run that ends early, or starts nothing more after ``--seconds``, is
taken up by the next one, unless Triton has another version by then. Results: benchmarks/results/ops_triton_aot.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import triton

from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops.triton_kernels import aot

RESULTS = Path(__file__).parent / "results" / "ops_triton_aot.json"
Build = tuple[str, int]  # kernel, compute capability


def main() -> None:
    """Compile what is not stored yet, print and store."""
    options = _options()
    wanted, found = builds(), stored()
    missing = [build for build in wanted if options.word in build[0] and build not in found]
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in _until(time.monotonic() + options.seconds, pool, missing, options.processes):
            found[row["kernel"], row["capability"]] = row
            print(f"{row['kernel']:60s} {row['capability']}: {row['registers']}/{row['shared']}/{row['stack']}", flush=True)
            _store(found, wanted)
    failed = [f"{row['kernel']} on {row['capability']}: {row['too_much']}" for row in found.values() if row["too_much"]]
    print("\n".join(failed) or f"{len(found)} of {len(wanted)} builds fit")
    sys.exit(bool(failed))


def builds() -> list[Build]:
    """Every kernel for every GPU that has its types."""
    examples = aot.examples()
    return [(name, capability) for name, launch in examples.items() for capability in aot.CAPABILITIES if aot.runs_on(launch, capability)]


def stored() -> dict[Build, dict[str, Any]]:
    """The rows that this version of Triton left."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    same = known.get("triton") == triton.__version__
    return {(row["kernel"], row["capability"]): row for row in known["kernels"]} if same else {}


def measure(build: Build) -> dict[str, Any]:
    """Compile one kernel for one GPU; in a process of the pool."""
    name, capability = build
    launch, start = aot.examples()[name], time.perf_counter()
    compiled = aot.compile_for(launch, capability)
    seconds, used = time.perf_counter() - start, aot.usage(compiled)
    row = {"kernel": name, "capability": capability, "warps": launch.num_warps, **vars(used)}
    return row | {"too_much": aot.too_much(used, capability), "seconds": round(seconds, 2)}


def summary(found: Iterable[dict[str, Any]]) -> list[Row]:
    """The extremes for each GPU."""
    rows = []
    for capability in aot.CAPABILITIES:
        mine = [row for row in found if row["capability"] == capability]
        for metric, unit in (("registers", "a thread"), ("shared", "bytes"), ("stack", "bytes a thread")):
            value = max((row[metric] for row in mine), default=0)
            rows.append(Row(metric=f"most {metric}", value=value, unit=unit, n=len(mine), conditions={"capability": capability}))
    return rows


def _until(end: float, pool: ProcessPoolExecutor, missing: list[Build], at_once: int) -> Iterator[dict[str, Any]]:
    """Measure in order, a few at once so that little is under way when the time is up."""
    waiting = iter(missing)
    while time.monotonic() < end and (some := list(islice(waiting, at_once))):
        yield from pool.map(measure, some)


def _store(found: dict[Build, dict[str, Any]], wanted: list[Build]) -> None:
    kept = [found[build] for build in wanted if build in found]
    rows = [row.model_dump() for row in summary(kept)]
    record = {"rows": rows, "kernels": kept, "complete": len(kept) == len(wanted), "triton": triton.__version__}
    write_json(RESULTS, record | {"environment": environment()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compile every Triton kernel for every GPU and record what it takes.")
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
