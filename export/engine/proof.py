"""Proof of precision: which share of an engine's layers computes in which number format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from segc.core.errors import CheckFailed
from segc.core.rows import Row
from segc.export.engine.layers import Layer
from segc.runtime.bundle import Manifest, is_of_its_graph
from segc.runtime.engines import library_title

_TOLD = 12
MOST_IN_FP32 = 0.5


def summary(layers: Sequence[Layer]) -> dict[str, Any]:
    """JSON-ready: layers by role and precision; fp32 islands by name.

    ``islands`` are matrix layers in fp32, each with the ONNX nodes in it.
    """
    working = [layer for layer in layers if layer.role != "none"]
    return {
        "layers": _count(working),
        "reformats": sum(layer.role == "reformat" for layer in working),
        "islands": [{"layer": layer.name, "nodes": list(layer.nodes)} for layer in working if _is_island(layer)],
    }


def rows(found: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[Row]:
    """The table of a ``summary`` for reports: one row for each role and precision."""
    return [
        Row(metric="engine_layers", value=value, unit="layers", n=1, conditions={**conditions, "role": role, "computes_in": precision})
        for role, by_precision in found["layers"].items()
        for precision, value in by_precision.items()
    ]


def engine_rows(manifest: Manifest) -> list[Row]:
    """The table of every engine of a bundle that was built from a graph it holds now."""
    found = []
    for engine in manifest.engines:
        if is_of_its_graph(manifest, engine):
            title = f"{engine.precision}, {library_title(engine.flavour)} {engine.version}, compute capability {engine.compute_capability}"
            found += rows({"layers": {}, **engine.notes}, {"engine": title, "file": engine.file})
    return found


def check_precision(found: Mapping[str, Any], precision: str) -> None:
    """Fail when an engine does not compute in what it is named after.

    Raises:
        CheckFailed: more than half of a 16-bit engine's matrix layers are in fp32, or none of an int8 engine's is in int8.
    """
    by_layers = found["layers"].get("matrix", {})
    if precision == "fp32" or not by_layers:
        return
    if precision.startswith("int8") and not by_layers.get("int8"):
        raise CheckFailed(f"the {precision} engine has no convolution or matrix product in int8: {_told(by_layers)}.")
    share = by_layers.get("fp32", 0) / sum(by_layers.values())
    if precision in ("fp16", "bf16") and share > MOST_IN_FP32:
        names = ", ".join(item["layer"] for item in found["islands"][:_TOLD])
        raise CheckFailed(
            f"the {precision} engine does {100 * share:.0f} % of its matrix work in fp32 ({_told(by_layers)} layers): {names}."
        )


def _told(by_precision: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} in {name}" for name, count in sorted(by_precision.items()))


def _is_island(layer: Layer) -> bool:
    return layer.role == "matrix" and layer.precision == "fp32"


def _count(layers: Sequence[Layer]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for layer in layers:
        found.setdefault(layer.role, Counter())[layer.precision or "unknown"] += 1
    return {role: dict(sorted(counts.items())) for role, counts in sorted(found.items())}
