"""The accuracy-drop report of a bundle: one offline HTML file and its Markdown and JSON twins, views over the stored result rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segc.core.errors import UserError
from segc.core.files import write_json, write_text
from segc.core.rows import environment, value_of
from segc.export.engine.proof import engine_rows
from segc.runtime.bundle import Manifest, graph_path, graph_precision, read_manifest
from segc.validate.chain import chain_of
from segc.validate.details import PLACE_METRICS
from segc.validate.intervals import few_images_notice, interval_text
from segc.validate.pareto import pareto_chart
from segc.validate.pictures import worst_panels
from segc.validate.sign_off import judged
from segc.validate.stored import current_results, is_preferred, stored_row, target_of, timing_of
from segc.validate.templating import render

FOLDER = "report"
_MARKS = ("p50", "p90", "p99")
_SIDES = {"score": "", "reference": "reference ", "drop": "drop "}
_STAGES = ("decode", "preprocess", "engine", "postprocess")


def write_report(bundle: Path | str, before: Sequence[Path] = (), thresholds: Sequence[str] = ()) -> Path:
    """Write ``report/report.html``, ``report.md`` and ``report.json`` of a bundle; returns the path of the HTML file.

    Args:
        bundle: the one that is handed over.
        before: bundles it was made from, the full network's first: steps of the chain.
        thresholds: conditions of ``segc.validate.fail_if`` that must not hold, judged in the sign-off block.

    Every number comes from a row of ``results/*.json`` or from ``bundle.json``; what was not measured is said to be missing, and results
    of graphs that the bundle no longer holds are left out and named. Pictures run the full and the compressed graph again on the
    images where they agree least.

    Raises:
        UserError: the bundle has no validation result of its graphs.
    """
    bundle = Path(bundle)
    data, chain = gather(bundle), chain_of([*before, bundle])
    data |= {"chain": chain, "pareto": pareto_chart(chain["points"]), "thresholds": judged(thresholds, data["compressed"])}
    data |= _second_looks(bundle, data["outdated"])
    data["engines"] = [row.model_dump() for row in engine_rows(read_manifest(bundle))]
    folder = bundle / FOLDER
    panels, missing = worst_panels(bundle, data["compressed"])
    write_json(folder / "report.json", _without_paths(data))
    write_text(folder / "report.md", render("report.md.j2", **data))
    write_text(folder / "report.html", render("report.html.j2", **data, panels=panels, panels_missing=missing))
    return folder / "report.html"


def gather(bundle: Path) -> dict[str, Any]:
    """What the report and the model card show, as JSON: the verdict, one line a measured target, the classes, conditions, provenance."""
    manifest = read_manifest(bundle)
    (validations, outdated), (timings, more) = (current_results(bundle, manifest, kind) for kind in ("validation", "benchmark"))
    outdated += more
    if not validations:
        why = f" ({', '.join(outdated)} are of an older graph)" if outdated else ""
        raise UserError(f"bundle {bundle} has no validation to report on{why}.", f"segc validate {bundle}@int8 --against {bundle}@fp32")
    targets = [_target(bundle, manifest, result, timings) for result in validations]
    compressed = _compressed(manifest, validations)
    notes = manifest.graphs[graph_precision(manifest, compressed["precision"])].notes
    full_bytes = graph_path(bundle, manifest, "fp32").stat().st_size
    chosen = next(line for line in targets if target_of(line) == target_of(compressed))
    return {
        "name": manifest.name,
        "targets": targets,
        "chosen": chosen,
        "verdict": _verdict(chosen, full_bytes, [_timing(result) for result in timings]),
        "compressed": compressed,
        "details": _details(compressed),
        "baselines": {"all one class": value_of(compressed, "all-one-class mIoU"), "random": value_of(compressed, "random mIoU")},
        "timings": [_timing(result) for result in timings],
        "slowest_ms": max((value_of(result, "pipeline_p50") for result in timings), default=0.0),
        "contract": manifest.contract.model_dump(mode="json"),
        "provenance": manifest.provenance,
        "outdated": outdated,
        "kept": _kept(notes),
        "calibration": notes.get("calibration"),
        "parity": {precision: graph.parity for precision, graph in manifest.graphs.items()},
        "conditions": {"measured": compressed["environment"], "report": environment()},
    }


def _second_looks(bundle: Path, outdated: list[str]) -> dict[str, Any]:
    """What ``segc parity`` and ``segc validate --ece`` found on the bundle's graphs, and the files of older ones beside those known."""
    manifest = read_manifest(bundle)
    (ladder, old), (reliability, older) = (current_results(bundle, manifest, kind) for kind in ("parity", "reliability"))
    return {
        "ladder": [{key: result[key] for key in ("target", "against", "passed", "stages", "dataset")} for result in ladder],
        "reliability": [
            {
                "precision": result["precision"],
                "backend": result["backend"],
                "ece": value_of(result, "ECE"),
                "surer": value_of(result, "mean confidence - accuracy"),
                "n": result["rows"][0]["n"],
            }
            for result in reliability
        ],
        "outdated": [*outdated, *old, *older],
    }


def _without_paths(data: dict[str, Any]) -> dict[str, Any]:
    """The report's data without the folders of this machine: it is made to be passed on."""
    compressed, provenance = dict(data["compressed"]), dict(data["provenance"])
    for holder, key in ((compressed, "dataset"), (provenance, "data")):
        if key in holder:
            holder[key] = {name: value for name, value in holder[key].items() if name != "root"}
    return {**data, "compressed": compressed, "provenance": provenance}


def _compressed(manifest: Manifest, validations: list[dict[str, Any]]) -> dict[str, Any]:
    """The validation the report is about: that of the preferred graph if it is a compressed one, else of any compressed graph."""
    below = [result for result in validations if result["precision"] != "fp32"]
    return next((result for result in below if is_preferred(manifest, result)), (below or validations)[-1])


def _target(bundle: Path, manifest: Manifest, result: dict[str, Any], timings: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the accuracy table."""
    timing, against = timing_of(result, timings), result["against"]
    return {
        "precision": result["precision"],
        "backend": result["backend"],
        "n": result["dataset"]["n"],
        **{metric: value_of(result, metric) for metric in ("mIoU", "mAcc", "aAcc")},
        "against": against["target"] if against else None,
        "drop": value_of(result, "drop mIoU") if against else None,
        "interval": interval_text(stored_row(result, "drop mIoU")),
        "distinguishable": stored_row(result, "drop mIoU").get("distinguishable", True),
        "agreement": value_of(result, "pixel agreement") if against else None,
        "p50_ms": value_of(timing, "engine_p50") if timing else None,
        "bytes": graph_path(bundle, manifest, graph_precision(manifest, result["precision"])).stat().st_size,
        "preferred": is_preferred(manifest, result),
    }


def _details(result: dict[str, Any]) -> dict[str, Any]:
    """Where accuracy was lost; empty lists for a result that was stored before these were."""
    places = [
        {
            "metric": metric,
            **{key: stored_row(result, prefix + metric).get("value") for key, prefix in _SIDES.items()},
            "interval": interval_text(stored_row(result, f"drop {metric}")),
            "conditions": stored_row(result, metric)["conditions"],
            "classes": result["places"][place],
        }
        for place, metric in PLACE_METRICS.items()
        if place in result.get("places", {})
    ]
    slices = result.get("slices", {})
    conditions = stored_row(result, "drop mIoU").get("conditions", {})
    return {
        "places": places,
        "flips": result.get("flips", []),
        "brightness": slices.get("brightness", []),
        "bootstrap": conditions if "resamples" in conditions else None,
        "caveats": few_images_notice(result["dataset"]["n"]),
    }


def _timing(result: dict[str, Any]) -> dict[str, Any]:
    pipeline = value_of(result, "pipeline_p50")
    return {
        "name": f"{result['precision']} {result['backend']}",
        "engine": {mark: value_of(result, f"engine_{mark}") for mark in _MARKS},
        "pipeline": {mark: value_of(result, f"pipeline_{mark}") for mark in _MARKS},
        "shares": {stage: value_of(result, f"{stage}_share") for stage in _STAGES},
        "stage_ms": {stage: value_of(result, f"{stage}_share") / 100 * pipeline for stage in _STAGES},
        "throughput": value_of(result, "pipeline_throughput"),
        "memory": value_of(result, "memory_added"),
        "n": result["rows"][0]["n"],
        "conditions": result["rows"][0]["conditions"],
    }


def _verdict(chosen: dict[str, Any], full_bytes: int, timings: list[dict[str, Any]]) -> str:
    """What was lost and what was won, in one sentence."""
    if chosen["precision"] == "fp32" or chosen["drop"] is None:
        return (
            f"{chosen['precision']} on {chosen['backend']}: mIoU {chosen['mIoU']:.2f} %. No compressed graph was compared with a full one."
        )
    parts = [f"{chosen['precision']} on {chosen['backend']} has mIoU {chosen['mIoU']:.2f} %, {abs(chosen['drop']):.2f} points "]
    parts.append(f"{'below' if chosen['drop'] >= 0 else 'above'} {chosen['against']}")
    parts.append(f" (drop: {chosen['interval']})" if chosen["interval"] else "")
    times = [timing["engine"]["p50"] for timing in timings if timing["conditions"]["precision"] == "fp32"]
    if times and chosen["p50_ms"]:
        parts.append(f", and is {min(times) / chosen['p50_ms']:.2f}x as fast as the fastest fp32")
    parts.append(f"; its file is {full_bytes / chosen['bytes']:.1f}x smaller.")
    return "".join(parts)


def _kept(notes: dict[str, Any]) -> list[dict[str, Any]]:
    """Nodes that stayed in float: reason, how many, their names."""
    kept: dict[str, str] = notes.get("kept_in_float", {})
    counts = Counter(kept.values())
    return [
        {"reason": reason, "count": count, "nodes": [name for name, why in kept.items() if why == reason]}
        for reason, count in counts.most_common()
    ]  # fmt: skip
