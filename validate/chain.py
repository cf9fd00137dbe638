"""The way from the full network to the artefact that is handed over: a line a step, each compared with the first on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segc.core.rows import value_of
from segc.runtime.bundle import RESULTS, Manifest, graph_path, read_manifest, result_file
from segc.validate.bootstrap import Bootstrap, paired_drops
from segc.validate.confusions import load_confusions
from segc.validate.intervals import drop_row, interval_text
from segc.validate.stored import current_results, is_preferred, target_of, timing_of

_BOOTSTRAP = Bootstrap()
_TOLD = ("cpu", "time", "versions")


def chain_of(bundles: Sequence[Path]) -> dict[str, Any]:
    """``steps``: the measured precisions of each bundle, in the order given; ``points``: every target with a latency, for a chart.

    A step's drop is that from the first step, with an interval where both left confusion matrices of the same images.

    Raises:
        UserError: a folder that is no bundle.
    """
    steps: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    first: tuple[Path, dict[str, Any]] | None = None
    for bundle in bundles:
        manifest = read_manifest(bundle)
        validations, timings = (current_results(bundle, manifest, kind)[0] for kind in ("validation", "benchmark"))
        points += [_point(manifest, result, timing) for result in validations if (timing := timing_of(result, timings))]
        for result in _one_a_precision(manifest, validations, timings):
            first = first or (bundle, result)
            steps.append(_step(bundle, manifest, result, timing_of(result, timings), first))
    return {"steps": steps, "points": points}


def _one_a_precision(manifest: Manifest, validations: list[dict[str, Any]], timings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every precision, in the order the bundle got them, the preferred backend's validation, else the fastest's, else any."""

    def rank(result: dict[str, Any]) -> tuple[bool, float]:
        timing = timing_of(result, timings)
        return not is_preferred(manifest, result), value_of(timing, "engine_p50") if timing else float("inf")

    groups = [[result for result in validations if result["precision"] == precision] for precision in manifest.graphs]
    return [min(group, key=rank) for group in groups if group]


def _point(manifest: Manifest, result: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    name = f"{manifest.name} {result['precision']} {result['backend']}"
    return {"name": name, "ms": value_of(timing, "engine_p50"), "miou": value_of(result, "mIoU"), "precision": result["precision"]}


def _step(
    bundle: Path, manifest: Manifest, result: dict[str, Any], timing: dict[str, Any] | None, first: tuple[Path, dict[str, Any]]
) -> dict[str, Any]:
    precision, backend = target_of(result)
    drop = _drop(first, (bundle, result))
    kinds = ("validation", "benchmark") if timing else ("validation",)
    counted = manifest.graphs["fp32"].notes if "fp32" in manifest.graphs else {}
    return {
        "name": f"{manifest.name}@{precision}",
        "precision": precision,
        "backend": backend,
        "miou": value_of(result, "mIoU"),
        "drop": drop.get("value"),
        "interval": interval_text(drop),
        "distinguishable": drop.get("distinguishable", True),
        "row": drop,
        "parameters": counted.get("parameters"),
        "macs": counted.get("macs"),
        "bytes": graph_path(bundle, manifest, precision).stat().st_size,
        "engine_ms": value_of(timing, "engine_p50") if timing else None,
        "pipeline_ms": value_of(timing, "pipeline_p50") if timing else None,
        "calibration": _calibration(manifest, precision),
        "images": result["dataset"]["n"],
        "sources": [result_file(".", kind, precision, backend).as_posix() for kind in kinds],
        "measured": {key: result["environment"][key] for key in _TOLD},
    }


def _calibration(manifest: Manifest, precision: str) -> str | None:
    notes = manifest.graphs[precision].notes.get("calibration")
    return f"{notes['images']} images, {notes['method']}, seed {notes['seed']}" if notes else None


def _drop(first: tuple[Path, dict[str, Any]], step: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """The row of a step's drop from the first; empty for the first itself, and where the images are others."""
    reference, target = first[1], step[1]
    if reference is target or reference["dataset"]["sha256"] != target["dataset"]["sha256"]:
        return {}
    counts = [_counts(*side) for side in (first, step)]
    found = paired_drops(counts[0], counts[1], _BOOTSTRAP) if counts[0] is not None and counts[1] is not None else None
    value = value_of(reference, "mIoU") - value_of(target, "mIoU")
    conditions = {"from": reference["target"], "to": target["target"]}
    interval = found.means.get("mIoU") if found else None
    return drop_row("drop mIoU", value, interval, target["dataset"]["n"], conditions, _BOOTSTRAP).model_dump()


def _counts(bundle: Path, result: dict[str, Any]) -> Any:
    """Pixels of every class in every image of a stored validation, None where its matrices are gone."""
    path = bundle / RESULTS / (result.get("confusions") or {}).get("file", "-")
    return load_confusions(path)["target"].counts(len(result["classes"])) if path.is_file() else None
