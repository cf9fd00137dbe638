"""``segc parity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb


@verb
def parity(
    target: Annotated[str, typer.Argument(help="Bundle (PATH@PRECISION) or deploy graph (.onnx).")],
    against: Annotated[str, typer.Option(help="The checkpoint it was made from, run by mmseg's own test pipeline.")],
    config: Annotated[str | None, typer.Option(help="mmseg config of a checkpoint that carries none.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the one the bundle was exported with.")] = None,
    layout: Annotated[str | None, typer.Option(help="Its layout; detected when left out.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split. Default: val.")] = None,
    backend: Annotated[str | None, typer.Option(help="What runs the whole graph. Default: the bundle's preferred.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images, evenly spread.")] = 20,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Result file. Default: BUNDLE/results/....")] = None,
) -> Outcome:
    """Find the stage at which a deployed graph leaves the training pipeline: decode, resize, normalize, windows, logits, upsample, argmax.

    Each stage gets the same input in both; what it costs in mIoU is found by swapping stages. Exit code 1 when a stage differs beyond
    its tolerance.

    Example: segc parity bundle@int8 --against work/best.safetensors
    """
    from segc.data.dataset import open_dataset
    from segc.validate.parity.check import parity as run
    from segc.validate.source import data_of

    root, own_layout, own_split = data_of(target, data)
    dataset = open_dataset(root, layout or own_layout, split or own_split)
    result = run(target, against, dataset, config=config, backend=backend, limit=limit, output=output)
    return Outcome(_summary(result), result, [_table(result), _headlines(result)], result["passed"])


def _summary(result: dict[str, Any]) -> str:
    images = f"{result['dataset']['n']} images"
    if result["passed"]:
        return f"no stage differs beyond its tolerance on {images}."
    stage = next(each for each in result["stages"] if each["stage"] == result["first"])
    found = stage["note"] or f"{stage['difference']:.3g} {stage['unit']} apart, allowed {stage['tolerance']:g}"
    cost = "" if stage["cost"] is None else f"; it costs {stage['cost']:+.2f} points of mIoU"
    others = ", ".join(each["stage"] for each in result["stages"] if not each["passed"] and each is not stage)
    return f"the first stage that differs is {result['first']}: {found} ({images}){cost}." + (f" Also: {others}." if others else "")


def _table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{result['target']} against the training pipeline of {result['against']['target']}")
    table.add_column("stage")
    for name in ("difference", "allowed", "costs", "last first"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in result["stages"]:
        difference = "-" if each["difference"] is None else f"{each['difference']:.2f} {each['unit']}"
        costs = ["-" if each[key] is None else f"{each[key]:+.2f}" for key in ("cost", "cost_training_first")]
        table.add_row(each["stage"], difference, f"{each['tolerance']:g}", *costs, _verdict(each))
    return table


def _verdict(stage: dict[str, Any]) -> str:
    if not stage["passed"]:
        return f"[red]differs[/] {stage['note']}"
    return f"not compared: {stage['note']}" if stage["difference"] is None else "[green]same[/]"


def _headlines(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(caption="costs: points of mIoU, stages deployed one after the other; last first: from the last to the first")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for row in result["rows"]:
        if row["metric"].startswith("mIoU"):
            table.add_row(row["metric"], f"{row['value']:.2f}", row["unit"])
    return table
