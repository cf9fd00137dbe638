"""``segc validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb


@verb
def validate(
    target: Annotated[str, typer.Argument(help="Checkpoint, ONNX deploy graph or bundle (PATH@PRECISION).")],
    against: Annotated[str | None, typer.Option(help="The artefact it was made from: drop per class, pixel agreement.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the one the bundle was exported with.")] = None,
    layout: Annotated[str | None, typer.Option(help="Its layout; detected when left out.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split. Default: val.")] = None,
    backend: Annotated[str | None, typer.Option(help="onnxruntime, openvino or torch.")] = None,
    against_backend: Annotated[str | None, typer.Option(help="Backend of --against.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="End with exit code 1 when mIoU drops by more points.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Result file. Default: BUNDLE/results/....")] = None,
) -> Outcome:
    """Score an artefact on labelled images at label resolution: mIoU, mAcc, aAcc, IoU per class, and what it lost against another.

    Example: segc validate bundle@int8 --against bundle@fp32 --max-drop 0.5
    """
    from segc.core.errors import UserError
    from segc.data.dataset import open_dataset
    from segc.validate.evaluate import validate as run
    from segc.validate.source import data_of

    if max_drop is not None and against is None:
        raise UserError("--max-drop needs something to drop from.", "Add --against ARTEFACT.")
    root, own_layout, own_split = data_of(target, data)
    dataset = open_dataset(root, layout or own_layout, split or own_split)
    result = run(
        target, dataset, against=against, backend=backend, against_backend=against_backend, threads=threads, limit=limit, output=output
    )
    values = {row["metric"]: row["value"] for row in result["rows"]}
    passed = max_drop is None or values["drop mIoU"] <= max_drop
    return Outcome(_summary(values, max_drop), result, [_class_table(result), _summary_table(result), *result["notices"]], passed)


def _summary(values: dict[str, float], max_drop: float | None) -> str:
    drop = f", {values['drop mIoU']:+.2f} points lost" if "drop mIoU" in values else ""
    allowed = f" (allowed {max_drop:g})" if max_drop is not None else ""
    baselines = f"all one class {values['all-one-class mIoU']:.2f} %, random {values['random mIoU']:.2f} %"
    return f"mIoU {values['mIoU']:.2f} %{drop}{allowed}; {baselines}"


def _summary_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    data = result["dataset"]
    table = Table(title=f"{result['target']} on {result['backend']}, {data['n']} images of {data['name']} {data['split']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for row in result["rows"]:
        table.add_row(row["metric"], f"{row['value']:.2f}", row["unit"])
    return table


def _class_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    compared = result["against"] is not None
    table = Table()
    for name in ["class", "IoU %", "Acc %", *(["reference IoU %", "drop", "agreement %"] if compared else [])]:
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in result["per_class"]:
        keys = ["iou", "acc", *(["reference_iou", "drop", "agreement"] if compared else [])]
        table.add_row(row["class"], *[_cell(row[key], key) for key in keys])
    return table


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    if key == "drop" and value >= 0.5:
        return f"[red]{value:.2f}[/]"
    return f"{value:.2f}"
