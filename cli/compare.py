"""``segc compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb


@verb
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Checkpoint, deploy graph or bundle (PATH@PRECISION).")],
    second: Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")],
    source: Annotated[str, typer.Argument(help="Image, folder, quoted glob, video file or camera number; no labels are needed.")],
    backend: Annotated[str | None, typer.Option(help="Backend of A.")] = None,
    second_backend: Annotated[str | None, typer.Option("--b-backend", help="Backend of B.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first frames.")] = None,
    min_agreement: Annotated[float | None, typer.Option(min=0, max=100, help="Exit code 1 when fewer % of the pixels agree.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HTML file: timeline, classes, the worst frames.")] = None,
) -> Outcome:
    """Compare two artefacts on footage without labels: agreement by frame and class, and how much each flickers.

    Example: segc compare bundle@int8 bundle@fp32 drive.mp4 -o drive.html
    """
    from segc.core.errors import UserError
    from segc.runtime.sources import open_source
    from segc.validate.compare import compare as run

    if output is not None and output.suffix != ".html":
        raise UserError(f"--output {output} is written as HTML.", f"-o {output.with_suffix('.html')}")
    options: dict[str, Any] = {"backend": backend, "second_backend": second_backend, "threads": threads, "limit": limit}
    result = run(first, second, open_source(source), **options, output=output)
    values = {row["metric"]: row["value"] for row in result["rows"]}
    agreement = values["pixel agreement"]
    passed = min_agreement is None or agreement >= min_agreement
    asked = "" if min_agreement is None else f" (asked: {min_agreement:g} %)"
    flicker = f"; flicker {values['flicker of A']:.3f} % and {values['flicker of B']:.3f} %" if "flicker of A" in values else ""
    written = f"; see {output}" if output else ""
    summary = f"{agreement:.2f} % of the pixels agree on {len(result['frames'])} frames{asked}{flicker}{written}"
    return Outcome(summary, result, [_classes(result), _rows(result), *result["notices"]], passed)


def _classes(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"A: {result['a']['target']}, B: {result['b']['target']}")
    table.add_column("class")
    for name in ("pixels, A", "pixels, B", "IoU of A against B %"):
        table.add_column(name, justify="right")
    for row in result["per_class"]:
        iou = "-" if row["agreement"] is None else f"{row['agreement']:.2f}"
        table.add_row(row["class"], f"{row['pixels_a']:,}", f"{row['pixels_b']:,}", iou)
    return table


def _rows(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for row in result["rows"]:
        table.add_row(row["metric"], f"{row['value']:.3f}", row["unit"])
    return table
