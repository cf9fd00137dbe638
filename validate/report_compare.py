"""Two reports side by side: what changed in the numbers they are signed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segc.core.errors import UserError
from segc.core.files import read_json

_CHOSEN = {"mIoU": "%", "mAcc": "%", "aAcc": "%", "drop": "points", "agreement": "%", "p50_ms": "ms", "bytes": "bytes"}


def compare_reports(first: Path, second: Path) -> dict[str, Any]:
    """Rows of every number of the chosen targets and of every class's IoU in two ``report.json``: first, second, change.

    Raises:
        UserError: a file that is no report, or reports over other classes.
    """
    reports = [_read(path) for path in (first, second)]
    classes = [{row["class"]: row["iou"] for row in report["compressed"]["per_class"]} for report in reports]
    if list(classes[0]) != list(classes[1]):
        raise UserError(f"{first} and {second} report on other classes: {', '.join(classes[0])} against {', '.join(classes[1])}.")
    rows = [_row(name, unit, *(report["chosen"].get(name) for report in reports)) for name, unit in _CHOSEN.items()]
    rows += [_row(f"IoU {name}", "%", classes[0][name], classes[1][name]) for name in classes[0]]
    same = len({report["compressed"]["dataset"]["sha256"] for report in reports}) == 1
    return {"targets": [report["compressed"]["target"] for report in reports], "same_images": same, "rows": rows}


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not {"chosen", "compressed"} <= set(found):
        raise UserError(f"{path} is no report.", "Give the report.json that segc report wrote.")
    return found


def _row(metric: str, unit: str, first: float | None, second: float | None) -> dict[str, Any]:
    change = None if first is None or second is None else second - first
    return {"metric": metric, "unit": unit, "first": first, "second": second, "change": change}
