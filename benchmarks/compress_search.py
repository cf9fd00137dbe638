"""What plain int8 loses, and what ``segc search`` makes of it inside a budget, on a trained network and the labelled images of its config.

    python -m benchmarks.compress_search best.safetensors

Every backend that is installed, budgets of 0.3 and 0.5 points; some ten minutes for the quickstart network on two cores, of which a part
is not needed again when it is stopped and started once more. Latencies of one backend are measured in interleaved rounds and told as those
of its fp32 graph times a ratio. Results: benchmarks/results/compress_search.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from segc.core.files import sha256_file, write_json
from segc.core.rows import Row, environment
from segc.pipeline.attempts import BOOTSTRAP, Attempts, without_leftovers
from segc.pipeline.executor import make_executor
from segc.pipeline.prepare import default_work, from_network
from segc.pipeline.search import Attempt, Found, search
from segc.runtime.runner import installed_backends
from segc.validate.intervals import drop_row

RESULTS = Path(__file__).parent / "results" / "compress_search.json"
BUDGETS = (0.3, 0.5)
RUNS = 50


def main(checkpoint: Path, limit: int | None = None) -> None:
    """Search, print and store."""
    work = default_work(str(checkpoint))
    bundle = from_network(None, checkpoint, None, work).bundle
    rows: list[Row] = []
    for backend in installed_backends():
        executor = make_executor(None, None)
        with without_leftovers(work, executor):
            attempts = Attempts(bundle, work, backend, executor, limit=limit, runs=RUNS, threads=None)
            for budget in BUDGETS:
                rows += _rows(search(attempts, budget), attempts, budget)
    stored = {"network": checkpoint.name, "sha256": sha256_file(checkpoint), "rows": [row.model_dump() for row in rows]}
    write_json(RESULTS, {**stored, "environment": environment()})
    for row in rows:
        told = f"{row.conditions['backend']:12s} {row.conditions['graph']:22s} {row.metric:22s} {row.value:8.2f} {row.unit}"
        print(told + (f" ({row.conditions['precisions']})" if row.conditions.get("precisions") else ""))


def _rows(found: Found, attempts: Attempts, budget: float) -> list[Row]:
    plain = next(each for each in found.attempts if each.name == "all int8")
    full = next(each for each in found.attempts if each.name == "fp32")
    graphs = {"fp32": full, "plain int8": plain, f"searched, budget {budget:g}": found.winner}
    return [row for name, attempt in graphs.items() for row in _graph_rows(name, attempt, full, attempts, budget)]


def _graph_rows(name: str, attempt: Attempt, full: Attempt, attempts: Attempts, budget: float) -> list[Row]:
    floats = {block: precision for block, precision in attempt.precisions.items() if precision != "int8"} if attempt.int8 else {}
    conditions: dict[str, Any] = {**attempts.conditions, "graph": name, "budget": budget, "attempt": attempt.name, "precisions": floats}
    drop = attempt.accuracy.drop if attempt.accuracy else None
    return [
        drop_row("drop mIoU", attempt.drop, drop, len(attempts.images), conditions, BOOTSTRAP),
        Row(metric="drop mIoU at most", value=attempt.upper, unit="points", n=len(attempts.images), conditions=conditions),
        Row(metric="engine_p50", value=attempt.ms, unit="ms", n=RUNS, conditions=conditions),
        Row(metric="fp32 / this", value=full.ms / attempt.ms, unit="ratio", n=RUNS, conditions=conditions),
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
