"""``segc search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from segc.cli.attempts import BackendName, Data, Limit, Options, RayAddress, Runs, Source, Threads, UseRay, Weights, WorkDir, open_attempts
from segc.cli.verb import Outcome, verb

if TYPE_CHECKING:
    from segc.pipeline.search import Found


@verb
def search(
    source: Source,
    max_drop: Annotated[float, typer.Option(help="Points of mIoU that may be lost, with 95 % confidence.")] = 0.5,
    weights: Weights = None,
    data: Data = None,
    work_dir: WorkDir = None,
    backend: BackendName = None,
    limit: Limit = None,
    runs: Runs = 30,
    threads: Threads = None,
    ray: UseRay = None,
    ray_address: RayAddress = None,
) -> Outcome:
    """Find the fastest precision of every block whose drop surely stays inside a budget, by latency measured here.

    Writes the winning bundle, a recipe that makes it again, a chart of drop against latency, and every attempt. A stopped search goes on
    where it was. Exit code 1: int8 is faster here, but no assignment keeps the budget.

    Example: segc search best.safetensors --max-drop 0.5 --backend openvino
    """
    with open_attempts(Options(source, weights, data, work_dir, backend, limit, runs, threads, ray, ray_address)) as (attempts, made, work):
        from segc.pipeline.search import search as run
        from segc.pipeline.search_output import write_search

        found = run(attempts, max_drop)
        told = write_search(found, made, work)
    written = [f"bundle: {told['bundle']}", f"chart: {told['chart']}", f"recipe: {told['recipe'] or 'none, the bundle has no recipe'}"]
    return Outcome(_summary(found), told, [_table(found), *written], passed=found.nearest is None)


def _summary(found: Found) -> str:
    winner, budget = found.winner, found.result["max_drop"]
    backend = found.result["backend"]
    if found.nearest:
        near = found.nearest
        return (
            f"no int8 assignment surely loses at most {budget:g} points; the nearest ({near.name}) loses {near.drop:+.2f}, "
            f"at most {near.upper:+.2f}, at {near.ms:.2f} ms against {found.float_ms:.2f} ms of {winner.name}"
        )
    if not winner.int8:
        return f"keep {winner.name}: int8 is not faster on {backend} ({winner.ms:.2f} ms), because {'; '.join(found.why)}"
    return (
        f"{winner.name}: {winner.drop:+.2f} points, at most {winner.upper:+.2f} (allowed {budget:g}), {winner.ms:.2f} ms on {backend}, "
        f"{found.float_ms / winner.ms:.2f}x as fast as float"
    )


def _table(found: Found) -> Any:
    from rich.table import Table

    result = found.result
    table = Table(title=f"{len(found.attempts)} attempts, {result['dataset']}, {result['backend']}", caption="*: the winner")
    table.add_column("blocks")
    for name in ("drop", "at most", "SQNR dB", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in sorted(found.attempts, key=lambda each: each.ms):
        numbers = (f"{each.drop:+.2f}", f"{each.upper:+.2f}", "-" if each.sqnr is None else f"{each.sqnr:.1f}", f"{each.ms:.2f}")
        style = "green" if each.upper <= result["max_drop"] else "red"
        table.add_row(each.name + (" *" if each is found.winner else ""), *numbers, style=style)
    return table
