"""``segc report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb


@verb
def report(
    bundles: Annotated[list[Path], typer.Argument(help="The bundle to report on; before it, those it was made from, the full one first.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help='A threshold to sign on: exit code 1 when it holds, e.g. "drop(mIoU) > 0.5". Repeatable.')
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare two report.json instead.")] = False,
) -> Outcome:
    """Write the accuracy-drop report of a bundle: one offline HTML file, Markdown and JSON twins.

    Example: segc report full/ pruned/ int8/ --fail-if "drop(mIoU) > 0.5"
    """
    from segc.core.errors import UserError
    from segc.core.files import read_json
    from segc.validate.report import write_report

    if compare:
        if len(bundles) != 2 or fail_if:
            raise UserError("--compare takes two report.json and nothing else.", "segc report --compare old.json new.json")
        return _compared(*bundles)
    path = write_report(bundles[-1], bundles[:-1], fail_if or [])
    data = read_json(path.with_suffix(".json"))
    files = {kind: str(path.with_suffix(f".{kind}")) for kind in ("html", "md", "json")}
    failed = [each["fails_if"] for each in data["thresholds"] if not each["passed"]]
    told = f" Thresholds not met: {'; '.join(failed)}." if failed else ""
    payload = {"files": files, "verdict": data["verdict"], "thresholds": data["thresholds"]}
    return Outcome(f"{path}: {data['verdict']}{told}", payload, passed=not failed)


def _compared(first: Path, second: Path) -> Outcome:
    from rich.table import Table

    from segc.validate.report_compare import compare_reports

    found = compare_reports(first, second)
    table = Table(title=" -> ".join(found["targets"]))
    for name in ("", "first", "second", "change", "unit"):
        table.add_column(name, justify="left" if name in ("", "unit") else "right")
    for row in found["rows"]:
        table.add_row(row["metric"], *(_text(row[key], key == "change") for key in ("first", "second", "change")), row["unit"])
    change = next(row["change"] for row in found["rows"] if row["metric"] == "mIoU")
    images = "the same images" if found["same_images"] else "other images: their scores say little about the artefacts"
    return Outcome(f"mIoU {change:+.2f} points, on {images}.", found, [table])


def _text(value: Any, signed: bool) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''},.2f}"
