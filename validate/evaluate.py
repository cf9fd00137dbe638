"""Score an artefact on a labelled dataset, alone or against another artefact: the result that is stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from segc.core.errors import UserError
from segc.core.files import sha256_file, sha256_json, write_json
from segc.core.rows import Row, environment
from segc.data.dataset import Pair, SegmentationSet
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target, content_hash, parse_target
from segc.validate.bootstrap import Bootstrap, Drops, paired_drops
from segc.validate.confusions import save_confusions
from segc.validate.details import flips, number, place_results, slices
from segc.validate.intervals import class_fields, drop_rows, few_images_notice
from segc.validate.metrics import Confusion, Summary, one_class_baseline, random_baseline, summarize
from segc.validate.scoring import Agreement, Counts, Lane, Scored, open_lanes, score

RESULTS = "results"

_BOOTSTRAP = Bootstrap()


def validate(
    target: str,
    dataset: SegmentationSet,
    *,
    against: str | None = None,
    backend: str | None = None,
    against_backend: str | None = None,
    threads: int | None = None,
    limit: int | None = None,
    output: Path | None = None,
    bootstrap: Bootstrap | None = _BOOTSTRAP,
    places: bool = False,
) -> dict[str, Any]:
    """Score ``target`` on a dataset at label resolution, and against another artefact where one is named.

    Args:
        target: checkpoint, ONNX deploy graph or bundle (``PATH@PRECISION``).
        dataset: from ``segc.data.dataset.open_dataset``.
        against: the artefact that ``target`` was made from, run on the same images in the same pass.
        backend, against_backend: see ``segc.runtime.runner.open_runner``.
        threads: CPU threads, shared by the images that run at a time; None takes every core.
        limit: only the first images.
        output: result file; None stores the result in the bundle's ``results/`` when ``target`` is a bundle. The confusion matrices of
            every image go beside it, to ``*.confusion.npz``.
        bootstrap: how the intervals of the drop are made; None makes none.
        places: score borders and small regions too (``segc.validate.places``).

    Returns:
        The result as stored: rows, per_class, per_image, flips, slices, dataset, environment.

    Raises:
        UserError: unknown target, classes that do not fit, an unreadable image or label, a label of another size than its image.
    """
    pairs = list(dataset)[:limit]
    lanes = open_lanes(target, against, backend, against_backend, threads)
    first, second = lanes[0].first, lanes[0].second
    for segmenter, name in ((first, target), (second, against)):
        if segmenter is not None:
            _check_classes(segmenter, dataset, str(name))
    start = time.perf_counter()
    counts = score(lanes, dataset, pairs, places)
    seconds = time.perf_counter() - start
    result = _result(target, against, lanes, dataset, pairs, counts, seconds, bootstrap)
    path = output or result_path(target, first)
    if path is not None:
        result["confusions"] = _store_confusions(path.with_suffix(".confusion.npz"), counts)
        write_json(path, result)
    return result


def result_path(target: str, segmenter: Segmenter) -> Path | None:
    """Where a bundle keeps the validation of a precision on a backend; None for other artefacts."""
    found = parse_target(target)
    if found.kind != "bundle":
        return None
    return found.path / RESULTS / f"validation.{segmenter.runner.precision}.{segmenter.runner.backend}.json"


def _store_confusions(path: Path, counts: Counts) -> dict[str, str]:
    """The matrices of the whole images under the side's name, those of a place under ``side.place``."""
    sides = {"target": counts.scored, **({"against": counts.reference} if counts.reference else {})}
    places = {f"{name}.{place}": found for name, side in sides.items() for place, found in side.places.items()}
    save_confusions(path, {**{name: side.matrices for name, side in sides.items()}, **places})
    return {"file": path.name, "sha256": sha256_file(path)}


def _check_classes(segmenter: Segmenter, dataset: SegmentationSet, name: str) -> None:
    if segmenter.contract.num_classes != dataset.spec.num_classes:
        raise UserError(
            f"{name} has {segmenter.contract.num_classes} classes, but dataset {dataset.root} has {dataset.spec.num_classes}.",
            "Validate on the dataset it was trained for: --data ROOT --layout NAME",
        )


def _result(
    target: str,
    against: str | None,
    lanes: list[Lane],
    dataset: SegmentationSet,
    pairs: list[Pair],
    counts: Counts,
    seconds: float,
    bootstrap: Bootstrap | None,
) -> dict[str, Any]:
    first, second = lanes[0].first, lanes[0].second
    scored, reference, agreement = counts.scored, counts.reference, counts.agreement
    summary = summarize(scored.total)
    other = summarize(reference.total) if reference else None
    conditions = {"precision": first.runner.precision, "backend": first.runner.backend, "split": dataset.split, "resolution": "label"}
    drops = paired_drops(reference.matrices.counts(), scored.matrices.counts(), bootstrap) if reference and bootstrap else None
    place_rows, tables = place_results(counts, dataset.spec.classes, conditions, bootstrap)
    rows = _rows(summary, scored.total, len(pairs), seconds, conditions)
    if other is not None and agreement is not None:
        rows += _compared_rows(other, agreement, len(pairs), conditions)
        rows += drop_rows(other, summary, drops, len(pairs), conditions, bootstrap)
    return {
        "kind": "validation",
        **_subject(target, first),
        "against": _subject(against, second) if against and second else None,
        "dataset": {
            "name": dataset.spec.name,
            "root": str(dataset.root.resolve()),
            "layout": dataset.layout,
            "split": dataset.split,
            "n": len(pairs),
            "sha256": sha256_json([[sha256_file(pair.image), sha256_file(pair.label)] for pair in pairs]),
        },
        "classes": list(dataset.spec.classes),
        "rows": [row.model_dump() for row in rows + place_rows if np.isfinite(row.value)],
        "per_class": _per_class(dataset, summary, other, scored.total, agreement, drops),
        "places": tables,
        "flips": flips(reference.total, scored.total, dataset.spec.classes) if reference else [],
        "slices": slices(counts, dataset.spec.classes, bootstrap),
        "per_image": _per_image(dataset, pairs, scored, reference, agreement),
        "notices": sorted({notice for lane in lanes for notice in lane.first.notices}) + (few_images_notice(len(pairs)) if drops else []),
        "seconds": seconds,
        "environment": environment(),
    }


def _subject(target: str, segmenter: Segmenter) -> dict[str, Any]:
    found = parse_target(target)
    runner = segmenter.runner
    return {
        "target": _name(found, runner.precision),
        "precision": runner.precision,
        "backend": runner.backend,
        "graph_sha256": content_hash(found, runner.precision),
    }


def _name(target: Target, precision: str) -> str:
    return f"{target.path.name}@{precision}" if target.kind == "bundle" else target.path.name


def _rows(summary: Summary, total: Confusion, n: int, seconds: float, conditions: dict[str, Any]) -> list[Row]:
    values = [("mIoU", summary.miou, "%"), ("mAcc", summary.macc, "%"), ("aAcc", summary.aacc, "%")]
    values += [("all-one-class mIoU", one_class_baseline(total), "%"), ("random mIoU", random_baseline(total), "%")]
    values += [("images/s", n / seconds, "images/s")]
    return [Row(metric=metric, value=value, unit=unit, n=n, conditions=conditions) for metric, value, unit in values]


def _compared_rows(other: Summary, agreement: Agreement, n: int, conditions: dict[str, Any]) -> list[Row]:
    values = [("reference mIoU", other.miou), ("reference mAcc", other.macc), ("reference aAcc", other.aacc)]
    values += [("pixel agreement", 100 * sum(agreement.same) / sum(agreement.pixels))]
    return [Row(metric=metric, value=value, unit="%", n=n, conditions=conditions) for metric, value in values]


def _per_class(
    dataset: SegmentationSet, summary: Summary, other: Summary | None, total: Confusion, agreement: Agreement | None, drops: Drops | None
) -> list[dict[str, Any]]:
    counts: Any = agreement.matrix if agreement is not None else None
    table = []
    for index, name in enumerate(dataset.spec.classes):
        row: dict[str, Any] = {"class": name, "iou": number(summary.iou[index]), "acc": number(summary.acc[index])}
        row["pixels"] = int(total[index].sum())
        if other is not None:
            row["reference_iou"] = number(other.iou[index])
            row["drop"] = number(other.iou[index] - summary.iou[index])
            row["agreement"] = float(100 * counts[0][index] / counts[1][index]) if counts[1][index] else None
            row.update(class_fields(drops.classes[index]) if drops else {})
        table.append(row)
    return table


def _per_image(
    dataset: SegmentationSet, pairs: list[Pair], scored: Scored, reference: Scored | None, agreement: Agreement | None
) -> list[dict[str, Any]]:
    table = []
    for index, pair in enumerate(pairs):
        row: dict[str, Any] = {"image": _relative(pair.image, dataset.root), "label": _relative(pair.label, dataset.root)}
        row["miou"] = number(summarize(scored.matrices[index]).miou)
        if reference is not None and agreement is not None:
            row["reference_miou"] = number(summarize(reference.matrices[index]).miou)
            row["agreement"] = 100 * agreement.same[index] / agreement.pixels[index]
        table.append(row)
    return table


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
