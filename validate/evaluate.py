"""Score an artefact on a labelled dataset, alone or against another artefact: the result that is stored."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from segc.core.files import sha256_file, write_json
from segc.core.progress import track
from segc.core.rows import Row, environment
from segc.data.dataset import Pair, SegmentationSet
from segc.validate.bootstrap import Bootstrap, Drops, paired_drops
from segc.validate.confusions import save_confusions
from segc.validate.details import flips, number, place_results, slices
from segc.validate.intervals import class_fields, drop_rows, few_images_notice
from segc.validate.metrics import Confusion, Summary, one_class_baseline, random_baseline, summarize
from segc.validate.parts import CHUNK, Chunk, Job, Parts, named_confusions
from segc.validate.scoring import Agreement, Counts, Scored, usable_cores
from segc.validate.sides import Side
from segc.validate.workers import Shard, count_in_workers

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
    workers: int = 1,
    parts: Path | None = None,
    maps: Path | None = None,
) -> dict[str, Any]:
    """Score ``target`` on a dataset at label resolution, and against another artefact where one is named.

    A validation that was stopped goes on with the images that are not counted yet.

    Args:
        target: checkpoint, ONNX deploy graph or bundle (``PATH@PRECISION``).
        dataset: from ``segc.data.dataset.open_dataset``.
        against: the artefact that ``target`` was made from, run on the same images in the same pass.
        backend, against_backend: see ``segc.runtime.runner.open_runner``.
        threads: CPU threads, shared by all that runs at a time; None takes every core.
        limit: only the first images.
        output: result file; None stores the result in the bundle's ``results/`` when ``target`` is a bundle. The confusion matrices of
            every image go beside it, to ``*.confusion.npz``.
        bootstrap: how the intervals of the drop are made; None makes none.
        places: score borders and small regions too (``segc.validate.places``).
        workers: processes that share the images and the threads.
        parts: folder of what is counted so far; None keeps it beside the result, and removes it when the result is stored.
        maps: folder in which class maps are kept, and those of ``against`` found again, so that it runs once for several targets.

    Returns:
        The result as stored: rows, per_class, per_image, flips, slices, dataset, environment.

    Raises:
        UserError: unknown target, classes that do not fit, an unreadable image or label, a label of another size than its image.
    """
    job = _job(target, dataset, against, backend, against_backend, limit, places, maps)
    path = output or job.target.result_file("validation")
    with _parts_of(path, parts) as store:
        start = time.perf_counter()
        chunks = _count(job, store, job.chunks, workers, threads)
        seconds = time.perf_counter() - start
        counts = job.nothing()
        for chunk in chunks:
            counts.merge(store.load(chunk))
        result = _result(job, chunks, counts, bootstrap, workers)
        result["seconds"] = seconds
        if path is not None:
            result["confusions"] = _store_confusions(path.with_suffix(".confusion.npz"), counts)
            write_json(path, result)
    return result


def count_shard(
    target: str, dataset: SegmentationSet, shard: Shard, *, parts: Path, workers: int = 1, threads: int | None = None, **what: Any
) -> int:
    """Count one host's share of a validation into ``parts``; how many images it has.

    ``validate`` with the same ``parts``, where those of all shards are, counts what is missing and makes the result.

    Args:
        shard: the share. what: against, backend, against_backend, limit, places and maps of ``validate``.

    Raises:
        UserError: see ``validate``.
    """
    job = _job(target, dataset, **what)
    chunks = shard.of(job.chunks)
    _count(job, Parts(parts), chunks, workers, threads)
    return job.images(chunks)


def _job(
    target: str,
    dataset: SegmentationSet,
    against: str | None = None,
    backend: str | None = None,
    against_backend: str | None = None,
    limit: int | None = None,
    places: bool = False,
    maps: Path | None = None,
) -> Job:
    other = Side.of(against, against_backend) if against else None
    return Job(Side.of(target, backend), other, dataset, dataset.pairs[:limit], places, maps, CHUNK)


def _count(job: Job, parts: Parts, chunks: Sequence[int], workers: int, threads: int | None) -> list[Chunk]:
    """See to it that the parts of some chunks are in the store; the chunks in their order."""
    counted = count_in_workers(job, parts, chunks, workers, threads or usable_cores())
    found = [chunk for chunk in track(counted, "validating", job.images(chunks)) if chunk]
    return sorted(found, key=lambda chunk: chunk.index)


@contextmanager
def _parts_of(result: Path | None, given: Path | None) -> Iterator[Parts]:
    """The folder that the user gave; else one beside the result, for as long as that is not stored; else a temporary one."""
    if given is not None:
        yield Parts(given)
    elif result is None:
        with TemporaryDirectory() as temporary:
            yield Parts(Path(temporary))
    else:
        beside = result.with_suffix(".parts")
        yield Parts(beside)
        shutil.rmtree(beside)


def _store_confusions(path: Path, counts: Counts) -> dict[str, str]:
    save_confusions(path, named_confusions(counts))
    return {"file": path.name, "sha256": sha256_file(path)}


def _result(job: Job, chunks: list[Chunk], counts: Counts, bootstrap: Bootstrap | None, workers: int) -> dict[str, Any]:
    dataset, pairs = job.dataset, job.pairs
    scored, reference, agreement = counts.scored, counts.reference, counts.agreement
    summary = summarize(scored.total)
    other = summarize(reference.total) if reference else None
    conditions = {"precision": job.target.precision, "backend": job.target.backend, "split": dataset.split, "resolution": "label"}
    drops = paired_drops(reference.matrices.counts(), scored.matrices.counts(), bootstrap) if reference and bootstrap else None
    place_rows, tables = place_results(counts, dataset.spec.classes, conditions, bootstrap)
    rows = _rows(summary, scored.total, len(pairs), conditions) + _speed_rows(job, chunks, workers, conditions)
    if other is not None and agreement is not None:
        rows += _compared_rows(other, agreement, len(pairs), conditions)
        rows += drop_rows(other, summary, drops, len(pairs), conditions, bootstrap)
    return {
        "kind": "validation",
        **job.target.as_json(),
        "against": job.against.as_json() if job.against else None,
        "dataset": {
            "name": dataset.spec.name,
            "root": str(dataset.root.resolve()),
            "layout": dataset.layout,
            "split": dataset.split,
            "n": len(pairs),
            "sha256": hashlib.sha256(b"".join(chunk.digests for chunk in chunks)).hexdigest(),
        },
        "classes": list(dataset.spec.classes),
        "rows": [row.model_dump() for row in rows + place_rows if np.isfinite(row.value)],
        "per_class": _per_class(dataset, summary, other, scored.total, agreement, drops),
        "places": tables,
        "flips": flips(reference.total, scored.total, dataset.spec.classes) if reference else [],
        "slices": slices(counts, dataset.spec.classes, bootstrap),
        "per_image": _per_image(dataset, pairs, scored, reference, agreement),
        "notices": sorted(counts.notices) + (few_images_notice(len(pairs)) if drops else []),
        "environment": environment(),
    }


def _rows(summary: Summary, total: Confusion, n: int, conditions: dict[str, Any]) -> list[Row]:
    values = [("mIoU", summary.miou, "%"), ("mAcc", summary.macc, "%"), ("aAcc", summary.aacc, "%")]
    values += [("all-one-class mIoU", one_class_baseline(total), "%"), ("random mIoU", random_baseline(total), "%")]
    return [Row(metric=metric, value=value, unit=unit, n=n, conditions=conditions) for metric, value, unit in values]


def _speed_rows(job: Job, chunks: list[Chunk], workers: int, conditions: dict[str, Any]) -> list[Row]:
    """Images that were run in this attempt, a second; none where none was, or where kept class maps may have stood in for runs."""
    ran = [chunk for chunk in chunks if chunk.seconds]
    if not ran or job.maps:
        return []
    images, seconds = job.images(chunk.index for chunk in ran), sum(chunk.seconds for chunk in ran)
    value = images / seconds * min(workers, len(chunks))
    return [Row(metric="images/s", value=value, unit="images/s", n=images, conditions={**conditions, "workers": workers})]


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
    dataset: SegmentationSet, pairs: Sequence[Pair], scored: Scored, reference: Scored | None, agreement: Agreement | None
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
