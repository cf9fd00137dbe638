"""The tables of docs/quantization.md, written from benchmarks/results/compress_ptq.json: ``python -m benchmarks.ptq_table``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segc.core.files import read_json, write_text
from segc.validate.pareto import on_front

RESULTS = Path(__file__).parent / "results" / "compress_ptq.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"
BEGIN, END = "<!-- ptq: written by python -m benchmarks.compress_ptq -->", "<!-- end of ptq -->"
OURS = "segc"
FP32 = "fp32"

# (latency ratio, drop in points) of a graph: smaller is better in both.
Points = dict[str, tuple[float, float]]


def write_tables(networks: Mapping[str, Any]) -> None:
    """Put the tables between their marks in docs/quantization.md."""
    write_text(DOCUMENT, replaced(DOCUMENT.read_text(), networks))


def replaced(document: str, networks: Mapping[str, Any]) -> str:
    """The document with the networks' tables and sentences between the marks."""
    before, _, rest = document.partition(BEGIN)
    parts = [f"**{name}**, {_told(found)}:\n\n{table(found)}\n\n{' '.join(sentences(found))}" for name, found in networks.items()]
    return f"{before}{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}{rest.partition(END)[2]}"


def table(found: Mapping[str, Any]) -> str:
    """A Markdown table, a graph a line; in bold what is on the front of its backend."""
    backends = _unique(row["conditions"]["backend"] for row in found["rows"])
    names = _unique([*(row["conditions"]["graph"] for row in found["rows"]), *(each["graph"] for each in found["failures"])])
    heads = [f"{backend}: drop, points [95 %] | agreement, % | time / fp32" for backend in backends]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + 3 * len(backends)) + "|"]
    cells = {backend: (points(found, backend), front(points(found, backend))) for backend in backends}
    for name in names:
        told = [_cells(found, name, backend, *cells[backend]) for backend in backends]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)


def points(found: Mapping[str, Any], backend: str) -> Points:
    """Where each graph lies on a backend; fp32 at (1, 0)."""
    ratio, drop = (_values(found, backend, metric) for metric in ("latency ratio", "drop mIoU"))
    return {FP32: (1.0, 0.0), **{name: (ratio[name], drop[name]) for name in ratio if name in drop}}


def front(places: Points) -> list[str]:
    """Names that no other place beats in one and equals in the other: the Pareto front, fastest first."""
    best = on_front(list(places.values()))
    return sorted((name for name, on in zip(places, best, strict=True) if on), key=lambda name: places[name])


def sentences(found: Mapping[str, Any]) -> list[str]:
    """For each backend: its front, and which graphs of other libraries none of ours beats; then what failed."""
    told = [_sentence(points(found, backend), backend) for backend in _unique(row["conditions"]["backend"] for row in found["rows"])]
    for failure in found["failures"]:
        where = f" on {failure['backend']}" if failure["backend"] else ""
        told.append(f"{failure['graph']} failed{where}: {failure['reason'].rstrip('.')}.")
    return told


def _sentence(places: Points, backend: str) -> str:
    others = [name for name in places if not name.startswith(OURS) and name != FP32]
    ours = [place for name, place in places.items() if name.startswith(OURS)]
    ahead = [name for name in others if not any(t <= places[name][0] and d <= places[name][1] for t, d in ours)]
    verdict = f"{' and '.join(ahead)}: not beaten by any of ours" if ahead else "every graph of another library is beaten by one of ours"
    return f"On {backend} the front of time and drop is {', '.join(front(places))}; {verdict if others else 'no other library was there'}."


def _cells(found: Mapping[str, Any], name: str, backend: str, places: Points, best: list[str]) -> str:
    rows = {row["metric"]: row for row in found["rows"] if (row["conditions"]["graph"], row["conditions"]["backend"]) == (name, backend)}
    if name not in places:
        return "failed | - | -"
    drop, agreement, ratio = (rows[metric] for metric in ("drop mIoU", "pixel agreement", "latency ratio"))
    interval = f" [{drop['ci_low']:.2f}, {drop['ci_high']:.2f}]" if "ci_low" in drop else ""
    bold = "**" if name in best else ""
    return f"{bold}{drop['value']:.2f}{bold}{interval} | {agreement['value']:.2f} | {bold}{ratio['value']:.2f}{bold}"


def _values(found: Mapping[str, Any], backend: str, metric: str) -> dict[str, float]:
    return {
        row["conditions"]["graph"]: row["value"]
        for row in found["rows"]
        if row["metric"] == metric and row["conditions"]["backend"] == backend
    }


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _told(found: Mapping[str, Any]) -> str:
    images = next(row["n"] for row in found["rows"] if row["metric"] == "drop mIoU")
    return f"{found['calibration_images']} calibration and {images} validation images, {found['environment']['cpu']}, two threads"


if __name__ == "__main__":
    write_tables(read_json(RESULTS)["networks"])
