"""The results that lie in a bundle, told apart by whether they were measured on the graphs it holds now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segc.core.files import read_json
from segc.runtime.bundle import RESULTS, Manifest, graph_precision


def current_results(bundle: Path, manifest: Manifest, kind: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(results of the bundle's graphs as they are now, files of results of older ones)."""
    found, outdated = [], []
    for path in sorted((bundle / RESULTS).glob(f"{kind}.*.json")):
        result = read_json(path)
        if _is_current(manifest, result):
            found.append(result)
        else:
            outdated.append(path.name)
    return sorted(found, key=lambda result: (result["precision"] != "fp32", result["precision"], result["backend"])), outdated


def _is_current(manifest: Manifest, result: dict[str, Any]) -> bool:
    """Measured on the graph of that precision that the bundle holds, and against one that it holds, where that was a graph of it."""
    graphs = {precision: graph.sha256 for precision, graph in manifest.graphs.items()}
    if result.get("graph_sha256") != graphs.get(graph_precision(manifest, result["precision"])):
        return False
    against = result.get("against")
    return not against or "@" not in against["target"] or against["graph_sha256"] in graphs.values()


def target_of(result: dict[str, Any]) -> tuple[str, str]:
    """(precision, backend) that a result was measured on."""
    return result["precision"], result["backend"]


def timing_of(result: dict[str, Any], timings: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The benchmark of a result's target; None where it was not timed."""
    return next((timing for timing in timings if target_of(timing) == target_of(result)), None)


def is_preferred(manifest: Manifest, result: dict[str, Any]) -> bool:
    """Whether a result is of the target that the bundle prefers."""
    return target_of(result) == (manifest.preferred.get("precision"), manifest.preferred.get("backend"))


def stored_row(result: dict[str, Any], metric: str) -> dict[str, Any]:
    """The stored row of a metric; empty where there is none."""
    return next((row for row in result["rows"] if row["metric"] == metric), {})
