"""The support table of docs/models.md, written from benchmarks/results/support.json: ``python -m benchmarks.support_table``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segc.core.files import read_json, write_text

RESULTS = Path(__file__).parent / "results" / "support.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
COLUMNS = ("train", "export", "ORT fp32", "ORT int8", "OpenVINO int8", "TensorRT-RTX")
BEGIN, END = "<!-- support: written by python -m benchmarks.support -->", "<!-- end of support -->"


def write_table() -> None:
    """Put the table between its marks in docs/models.md."""
    write_text(DOCUMENT, replaced(DOCUMENT.read_text(), table(read_json(RESULTS)["rows"])))


def replaced(document: str, text: str) -> str:
    """The document with ``text`` between the marks."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a network a line, and below it the reasons of what did not pass."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["network"], row["stage"]): row for row in rows}
    reasons = list(dict.fromkeys(row["reason"] for row in rows if row["reason"]))
    lines = [f"| | {' | '.join(COLUMNS)} | run on a GPU |", "|---" * (len(COLUMNS) + 2) + "|"]
    for network in networks:
        cells = [_cell(found.get((network, stage)), reasons) for stage in COLUMNS]
        lines.append(f"| {network} | {' | '.join(cells)} | never |")
    notes = [f"{index}. {reason.rstrip('.')}." for index, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes]).rstrip()


def _cell(row: dict[str, Any] | None, reasons: list[str]) -> str:
    if row is None:
        return "not tried"
    if row["reason"]:
        return f"no ({reasons.index(row['reason']) + 1})"
    if row["agreement"] is None:
        return "yes" if row["stage"] == "train" else row["detail"]
    size = f" at {row['detail']}" if row["detail"] else ""
    return f"{100 * row['agreement']:.2f} %{size}"


if __name__ == "__main__":
    write_table()
