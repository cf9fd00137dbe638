"""``segc validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import BACKENDS, Outcome, verb

_FLIPS = 6


@verb
def validate(
    target: Annotated[str, typer.Argument(help="Checkpoint, ONNX deploy graph or bundle (PATH@PRECISION).")],
    against: Annotated[str | None, typer.Option(help="The artefact it was made from: drop per class, pixel agreement.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder. Default: the one the bundle was exported with.")] = None,
    layout: Annotated[str | None, typer.Option(help="Its layout; detected when left out.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split. Default: val.")] = None,
    backend: Annotated[str | None, typer.Option(help=BACKENDS)] = None,
    against_backend: Annotated[str | None, typer.Option(help="Backend of --against.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="End with exit code 1 when mIoU drops by more points.")] = None,
    fail_if: Annotated[
        str | None, typer.Option(help='End with exit code 1 when this holds: "drop(mIoU) > 0.5 or drop(class:person) > 1".')
    ] = None,
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap that gives drops their intervals; 0: none.")] = 10_000,
    confidence: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    interval: Annotated[str, typer.Option(help="percentile or bca.")] = "percentile",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    boundary: Annotated[bool, typer.Option("--boundary", help="Score class borders and small regions too; takes longer.")] = False,
    ece: Annotated[bool, typer.Option("--ece", help="Calibration of the probabilities, in a second pass; not of class maps.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Result file. Default: BUNDLE/results/....")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the images and the threads.")] = 1,
    parts: Annotated[
        Path | None, typer.Option(help="Folder of what is counted so far. Default: beside the result, until it is there.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Count only part K/N of the images into --parts; env: as torchrun says.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Folder of class maps: --against runs once for all that it is compared with.")] = None,
) -> Outcome:
    """Score an artefact on labelled images at label resolution: mIoU, mAcc, aAcc, IoU per class, and what it lost against another.

    A drop comes with its bootstrap interval over the images; --fail-if judges the drop, upper(drop(mIoU)) the interval's end.
    A validation that was stopped goes on where it was. On several hosts: give each a --shard, then the same command without it.

    Example: segc validate bundle@int8 --against bundle@fp32 --fail-if "drop(mIoU) > 0.5 or drop(class:person) > 1"
    """
    from segc.core.errors import UserError
    from segc.data.dataset import open_dataset
    from segc.validate.evaluate import validate as run
    from segc.validate.fail_if import parse_condition, quantities, quantity_names
    from segc.validate.source import data_of

    if max_drop is not None and against is None:
        raise UserError("--max-drop needs something to drop from.", "Add --against ARTEFACT.")
    condition = parse_condition(fail_if) if fail_if is not None else None
    bootstrap = _bootstrap(resamples, confidence, interval, seed)
    root, own_layout, own_split = data_of(target, data)
    dataset = open_dataset(root, layout or own_layout, split or own_split)
    if condition:
        condition.check(quantity_names(dataset.spec.classes, against is not None, bootstrap is not None, boundary))
    what: dict[str, Any] = {
        "against": against,
        "backend": backend,
        "against_backend": against_backend,
        "limit": limit,
        "places": boundary,
        "maps": maps,
    }
    how: dict[str, Any] = {"workers": workers, "threads": threads, "parts": parts}
    if shard is not None:
        _refuse_with_shard({"--max-drop": max_drop, "--fail-if": fail_if, "--output": output, "--ece": ece or None})
        return _shard(shard, parts, target, dataset, {**what, **how})
    result = run(target, dataset, output=output, bootstrap=bootstrap, **what, **how)
    values = {row["metric"]: row["value"] for row in result["rows"]}
    failed = condition is not None and condition.holds(quantities(result))
    passed = not failed and (max_drop is None or values["drop mIoU"] <= max_drop)
    summary = _summary(result, max_drop) + (f"; {fail_if} {'holds' if failed else 'does not hold'}" if condition else "")
    view = [_class_table(result), *_flip_table(result), _summary_table(result), *result["notices"]]
    if ece:
        summary += _reliability(target, dataset, backend, limit, result)
    return Outcome(summary, result, view, passed)


def _reliability(target: str, dataset: Any, backend: str | None, limit: int | None, result: dict[str, Any]) -> str:
    """Add the calibration of the probabilities to the result; a few words on it."""
    from segc.validate.reliability import reliability

    found = result["reliability"] = reliability(target, dataset, backend=backend, limit=limit)
    error, gap = (row["value"] for row in found["rows"])
    return f"; ECE {error:.2f} points ({'surer' if gap > 0 else 'less sure'} than right by {abs(gap):.2f})"


def _refuse_with_shard(given: dict[str, Any]) -> None:
    from segc.core.errors import UserError

    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UserError(f"{names[0]} needs the whole set, --shard counts a share.", f"Give {names[0]} in the command without --shard.")


def _shard(shard: str, parts: Path | None, target: str, dataset: Any, options: dict[str, Any]) -> Outcome:
    from segc.core.errors import UserError
    from segc.validate.evaluate import count_shard
    from segc.validate.workers import Shard

    if parts is None:
        raise UserError("--shard needs a folder for what it counts.", "Add --parts DIR, best one that all hosts see.")
    share = Shard.parse(shard)
    images = count_shard(target, dataset, share, **options)
    told = f"shard {share.index + 1}/{share.count}: {images} images counted in {parts}; when all are, give the command without --shard"
    return Outcome(told, {"shard": share.index + 1, "of": share.count, "images": images, "parts": str(parts)})


def _bootstrap(resamples: int, confidence: float, interval: str, seed: int) -> Any:
    from segc.core.errors import UserError
    from segc.validate.bootstrap import METHODS, Bootstrap

    if resamples == 0:
        return None
    try:
        return Bootstrap(resamples, confidence, seed, next(each for each in METHODS if each == interval.lower()))
    except (ValueError, StopIteration):
        given = f"--resamples {resamples} --confidence {confidence} --interval {interval}"
        expected = f"100 or more draws (0: no intervals), a level from 0.5 to below 1, one of {', '.join(METHODS)}"
        raise UserError(f"{given}: expected {expected}.") from None


def _summary(result: dict[str, Any], max_drop: float | None) -> str:
    from segc.validate.intervals import interval_text

    rows = {row["metric"]: row for row in result["rows"]}
    values = {metric: row["value"] for metric, row in rows.items()}
    sure = interval_text(rows.get("drop mIoU", {}))
    drop = f", {values['drop mIoU']:+.2f} points lost{f' ({sure})' if sure else ''}" if "drop mIoU" in values else ""
    allowed = f" (allowed {max_drop:g})" if max_drop is not None else ""
    baselines = f"all one class {values['all-one-class mIoU']:.2f} %, random {values['random mIoU']:.2f} %"
    return f"mIoU {values['mIoU']:.2f} %{drop}{allowed}; {baselines}"


def _summary_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    from segc.validate.intervals import interval_text

    data = result["dataset"]
    table = Table(title=f"{result['target']} on {result['backend']}, {data['n']} images of {data['name']} {data['split']}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    intervals = [interval_text(row) for row in result["rows"]]
    if any(intervals):
        table.add_column("interval")
    for row, interval in zip(result["rows"], intervals, strict=True):
        table.add_row(row["metric"], f"{row['value']:.2f}", row["unit"], *([interval] if any(intervals) else []))
    return table


def _class_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    columns = {"iou": "IoU %", "acc": "Acc %"}
    if result["against"] is not None:
        columns |= {"reference_iou": "reference IoU %", "drop": "drop", "agreement": "agreement %"}
    with_intervals = "drop_low" in result["per_class"][0]
    table = Table(caption="*: differs from zero, with every class looked at together (Holm)" if with_intervals else None)
    for name in ["class", *columns.values(), *(["interval"] if with_intervals else [])]:
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in result["per_class"]:
        cells = [_cell(row, key) for key in columns]
        table.add_row(row["class"], *cells, *([_interval(row)] if with_intervals else []))
    return table


def _flip_table(result: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    table = Table(title="of a class's labelled pixels, what became another class")
    table.add_column("label -> found")
    table.add_column("more, %", justify="right")
    table.add_column("pixels", justify="right")
    for row in result["flips"][:_FLIPS]:
        table.add_row(f"{row['label']} -> {row['found']}", f"{row['points']:+.2f}", f"{row['pixels']:+,}")
    return [table] if result["flips"] else []


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if value is None:
        return "-"
    text = f"{value:.2f}" + ("*" if key == "drop" and row.get("distinguishable") else "")
    return f"[red]{text}[/]" if key == "drop" and value >= 0.5 else text


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["drop_low"] is None else f"{row['drop_low']:+.2f} to {row['drop_high']:+.2f}"
