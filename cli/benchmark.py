"""``segc benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import BACKENDS, Outcome, verb
from segc.core.errors import UserError


@verb
def benchmark(
    target: Annotated[str, typer.Argument(help="Bundle[@precision], deploy graph (.onnx) or checkpoint.")],
    backend: Annotated[str | None, typer.Option(help=f"{BACKENDS} Default: the bundle's preferred.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every precision on every installed backend, in interleaved rounds.")] = False,
    checkpoint: Annotated[Path | None, typer.Option("--torch", help="With --all: this checkpoint in torch, too.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the backend's choice.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs.")] = 50,
    warmup: Annotated[int, typer.Option(min=1, help="Runs before them.")] = 5,
    images: Annotated[str | None, typer.Option(help="Folder of images, or 'noise'. Default: the embedded dataset's.")] = None,
    prefer: Annotated[bool, typer.Option("--write-preferred", help="Make the fastest that agrees the bundle's default.")] = False,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Share of equal pixels --write-preferred asks for.")] = 0.99,
) -> Outcome:
    """Measure latency and throughput of the engine and of the whole pipeline.

    Example: segc benchmark bundle/ --all
    """
    from segc.core.rows import value_of
    from segc.runtime import benchmark as bench
    from segc.runtime.target import parse_target

    parsed = parse_target(target)
    if (every or prefer) and (parsed.kind != "bundle" or parsed.precision or backend):
        raise UserError(f"--all and --write-preferred measure a whole bundle, not {target!r} on one backend.", "Give the bundle's folder.")
    if checkpoint is not None and not every:
        raise UserError("--torch compares with every backend.", "Add --all.")
    pairs = bench.all_targets(parsed.path, checkpoint) if every or prefer else [(parsed, backend)]
    results = bench.benchmark_many(pairs, threads=threads, warmup=warmup, runs=runs, images=_images(images))
    fastest = min(results, key=lambda result: value_of(result, "engine_p50"))
    summary = (
        f"{fastest['precision']} on {fastest['backend']}: engine {value_of(fastest, 'engine_p50'):.1f} ms (median), "
        f"pipeline {value_of(fastest, 'pipeline_throughput'):.1f} images/s."
    )
    if prefer:
        preferred = bench.pick_preferred(results, min_agreement)
        bench.write_preferred(parsed.path, preferred)
        summary += f" The bundle now prefers {preferred['precision']} on {preferred['backend']}."
    return Outcome(summary, {"results": results}, [_engine_table(results), _pipeline_table(results)])


def _images(text: str | None) -> list[Path] | None:
    from segc.data.embedded import embedded_dataset
    from segc.runtime.benchmark import first_images

    if text == "noise":
        return None
    return first_images(Path(text) if text else embedded_dataset() / "images" / "val", 20)


def _engine_table(results: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from segc.core.rows import value_of

    table = Table(title="Engine alone, ms; ratio to the slowest median", title_justify="left")
    for name in ("", "p50", "p90", "p99", "ratio", "agreement", "MiB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    slowest = max(value_of(result, "engine_p50") for result in results)
    for result in results:
        marks = [value_of(result, f"engine_p{mark}") for mark in (50, 90, 99)]
        agreement, memory = f"{value_of(result, 'pixel_agreement'):.2f} %", f"{value_of(result, 'memory_added'):.0f}"
        table.add_row(_name(result), *(f"{mark:.1f}" for mark in marks), f"{slowest / marks[0]:.2f}x", agreement, memory)
    return table


def _pipeline_table(results: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from segc.core.rows import value_of
    from segc.runtime.benchmark import STAGES

    table = Table(title="Whole pipeline, ms; share of decode, preprocess, engine, postprocess in %", title_justify="left")
    for name in ("", "p50", "p99", "images/s", "dec", "pre", "eng", "post"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for result in results:
        marks = [value_of(result, name) for name in ("pipeline_p50", "pipeline_p99", "pipeline_throughput")]
        shares = [value_of(result, f"{stage}_share") for stage in STAGES]
        table.add_row(_name(result), *(f"{number:.1f}" for number in (*marks, *shares)))
    return table


def _name(result: dict[str, Any]) -> str:
    return f"{result['precision']} {result['backend']}"
