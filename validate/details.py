"""Where an artefact lost accuracy: at borders and in small regions, which classes for which, on which kind of image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.rows import Row
from segc.validate.bootstrap import MEANS, Bootstrap, paired_drops, scores
from segc.validate.confusions import ClassCounts
from segc.validate.intervals import class_fields, drop_row
from segc.validate.metrics import Confusion
from segc.validate.places import BAND_PIXELS, BOUNDARY_RATIO, SMALL_PIXELS
from segc.validate.scoring import Counts, Scored

PLACE_METRICS = {"boundary": "boundary mIoU", "band": "band mIoU", "small": "small-region recall"}
_PLACE_CONDITIONS: dict[str, dict[str, Any]] = {
    "boundary": {"width": f"{100 * BOUNDARY_RATIO:g} % of the diagonal"},
    "band": {"width": f"{BAND_PIXELS} pixels"},
    "small": {"largest": f"{SMALL_PIXELS} pixels"},
}
FLIPS = 12
_THIRDS = ("darkest third", "middle third", "brightest third")
_HALVES = ("smaller half", "larger half")


def place_results(
    counts: Counts, classes: Sequence[str], conditions: dict[str, Any], options: Bootstrap | None
) -> tuple[list[Row], dict[str, list[dict[str, Any]]]]:
    """(rows of the means, class tables by place): of the artefact, and of what it lost where another one was counted."""
    rows: list[Row] = []
    tables = {}
    for place in counts.scored.places:
        target = _place_counts(counts.scored, place, len(classes))
        own = {**conditions, **_PLACE_CONDITIONS[place]}
        reference = _place_counts(counts.reference, place, len(classes)) if counts.reference else None
        found, table = _place(PLACE_METRICS[place], target, reference, own, options)
        rows += found
        tables[place] = [{"class": name, **row} for name, row in zip(classes, table, strict=True)]
    return rows, tables


def _place_counts(scored: Scored, place: str, classes: int) -> ClassCounts:
    """Counts whose IoU is the place's score: where nothing is found beside what is right, IoU is recall."""
    found = scored.places[place].counts(classes)
    return ClassCounts(found.right, found.label, found.right) if place == "small" else found


def _place(
    metric: str, target: ClassCounts, reference: ClassCounts | None, conditions: dict[str, Any], options: Bootstrap | None
) -> tuple[list[Row], list[dict[str, Any]]]:
    after, n = scores(target.total), len(target.label)
    rows = [Row(metric=metric, value=after[0], unit="%", n=n, conditions=conditions)]
    table: list[dict[str, Any]] = [{"score": number(value)} for value in after[len(MEANS) :]]
    if reference is not None:
        before = scores(reference.total)
        drops = paired_drops(reference, target, options) if options else None
        rows += [Row(metric=f"reference {metric}", value=before[0], unit="%", n=n, conditions=conditions)]
        mean = drops.means.get("mIoU") if drops else None
        rows += [drop_row(f"drop {metric}", before[0] - after[0], mean, n, conditions, options)]
        for index, row in enumerate(table):
            row["reference"], row["drop"] = number(before[len(MEANS) + index]), number((before - after)[len(MEANS) + index])
            row.update(class_fields(drops.classes[index]) if drops else {})
    return rows, table


def flips(reference: Confusion, target: Confusion, classes: Sequence[str], count: int = FLIPS) -> list[dict[str, Any]]:
    """The confusions that grew most: of a class's labelled pixels, the share (points) that became another class.

    "rider -> person +1.8" says that 1.8 % of the rider's pixels, beyond those that the reference took for a person, are now a person.
    """
    pixels = target.sum(1, keepdims=True)
    more = np.where(pixels > 0, (target - reference) / np.maximum(pixels, 1), 0.0)
    np.fill_diagonal(more, 0)
    order = np.argsort(-more, axis=None, kind="stable")[:count]
    pairs = [divmod(int(index), len(classes)) for index in order if more.flat[index] > 0]
    return [
        {
            "label": classes[label],
            "found": classes[found],
            "points": 100 * float(more[label, found]),
            "pixels": int(target[label, found] - reference[label, found]),
        }
        for label, found in pairs
    ]


def slices(counts: Counts, classes: Sequence[str], options: Bootstrap | None) -> dict[str, list[dict[str, Any]]]:
    """Scores of parts of the images: thirds by brightness; for every class, the images where it covers less and more than its median."""
    target = counts.scored.matrices.counts()
    reference = counts.reference.matrices.counts() if counts.reference else None
    return {
        "brightness": _by_brightness(np.array(counts.brightness), target, reference, options),
        "class_size": _by_size(target, reference, classes),
    }


def _by_brightness(
    brightness: NDArray[np.float64], target: ClassCounts, reference: ClassCounts | None, options: Bootstrap | None
) -> list[dict[str, Any]]:
    found = []
    for name, images in zip(_THIRDS, np.array_split(np.argsort(brightness, kind="stable"), len(_THIRDS)), strict=True):
        if not images.size:
            continue
        row = {"slice": name, "images": int(images.size), "from": float(brightness[images[0]]), "to": float(brightness[images[-1]])}
        found.append({**row, **_part(target, reference, images, 0, options)})
    return found


def _by_size(target: ClassCounts, reference: ClassCounts | None, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Ties at the median go by the order of the images."""
    share = target.label / np.maximum(target.label.sum(1, keepdims=True), 1)
    found = []
    for index, name in enumerate(classes):
        here = np.flatnonzero(share[:, index])
        halves = np.array_split(here[np.argsort(share[here, index], kind="stable")], len(_HALVES))
        for half, images in zip(_HALVES, halves, strict=True):
            if images.size:
                row = {"class": name, "slice": half, "images": int(images.size), "largest_share": 100 * float(share[images[-1], index])}
                found.append({**row, **_part(target, reference, images, len(MEANS) + index, None)})
    return found


def _part(
    target: ClassCounts, reference: ClassCounts | None, images: NDArray[np.int64], which: int, options: Bootstrap | None
) -> dict[str, Any]:
    """One score (a column of ``bootstrap.scores``) on some images, and its drop."""
    after = scores(target.only(images).total)[which]
    if reference is None:
        return {"score": number(after)}
    before = scores(reference.only(images).total)[which]
    drops = paired_drops(reference.only(images), target.only(images), options) if options else None
    interval = class_fields(drops.means.get("mIoU")) if drops else {}
    return {"score": number(after), "reference": number(before), "drop": number(before - after), **interval}


def number(value: float) -> float | None:
    """JSON has no NaN: a score of a class that occurs nowhere is null."""
    return float(value) if np.isfinite(value) else None
