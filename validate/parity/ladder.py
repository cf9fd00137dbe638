"""The ladder: which stage of a deployed graph differs from the training pipeline, by how much, and what each costs in mIoU.

Every stage of the graph is given what the stage before it gave in the training pipeline, so that each answers for itself. What a stage
costs is found by swapping: stages up to it from one pipeline, the rest from the other, in both orders. The costs of one order add up to
the whole drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segc.data.dataset import Pair, SegmentationSet
from segc.models.network import quietly
from segc.runtime.segmenter import Segmenter
from segc.validate.metrics import Confusion, confusion, summarize
from segc.validate.parity.cut import Misfit
from segc.validate.parity.deployed import DeployedPipeline
from segc.validate.parity.trace import STAGES, Array, Pipeline, Trace, equal, follow
from segc.validate.parity.training import TrainingPipeline
from segc.validate.scoring import load_pair

RUNTIME, METRIC = "runtime", "mIoU"
LADDER = (*STAGES, RUNTIME, METRIC)


@dataclass
class Found:
    """A stage's largest difference over the images; ``misfit`` tells what could not be compared.

    reshaped: the graph gives another size than the training pipeline, which is a difference beyond any number.
    """

    difference: float | None = None
    reshaped: bool = False
    misfit: str = ""

    def add(self, difference: float) -> None:
        """Take another image's."""
        self.difference = max(difference, self.difference or 0.0)


class Ladder:
    """What was counted on some images.

    found: by stage. deployed_first: confusion matrices with the first k stages of the deployed graph and the rest of the training
    pipeline, k from 0 to all; training_first: the other way round; None where the two do not fit together. shipped: of the artefact in
    one piece. mmseg: what mmseg's metric counts, by image.
    """

    def __init__(self, classes: int) -> None:
        self.found = {stage: Found() for stage in LADDER}
        nothing: Confusion = np.zeros((classes, classes), np.int64)
        self.deployed_first: list[Confusion | None] = [nothing] * (len(STAGES) + 1)
        self.training_first: list[Confusion | None] = [nothing] * (len(STAGES) + 1)
        self.shipped = nothing
        self.mmseg: list[Any] = []


def climb(
    ladder: Ladder, training: TrainingPipeline, deployed: DeployedPipeline, shipped: Segmenter, dataset: SegmentationSet, pair: Pair
) -> None:
    """Count one image.

    Raises:
        UserError: an unreadable image or label, or a label of another size than its image.
    """
    label, spec = load_pair(dataset, pair)[1], dataset.spec
    theirs, ours = (follow(side, Trace(pair.image)) for side in (training, deployed))
    _compare_stages(ladder.found, theirs, deployed)

    def count(found: Array) -> Confusion:
        return confusion(found, label, spec.num_classes, spec.ignore_index)

    _add(ladder.deployed_first, _swapped(theirs, ours, training), count)
    _add(ladder.training_first, _swapped(ours, theirs, deployed), count)
    whole = shipped.class_map(theirs.decode)
    ladder.found[RUNTIME].add(_changed(whole, ours.argmax))
    ladder.shipped = ladder.shipped + count(whole)
    ladder.mmseg.append(_mmseg_areas(theirs.argmax, dataset, pair))


def _compare_stages(found: dict[str, Found], theirs: Trace, deployed: DeployedPipeline) -> None:
    """Give every stage of the graph what the training pipeline had before it."""
    for stage in STAGES:
        try:
            value = deployed.steps[stage](theirs.before(stage))
        except Misfit as error:
            found[stage].misfit = str(error)
            continue
        expected = getattr(theirs, stage)
        if stage != "windows" and _size(value) != _size(expected):
            found[stage].misfit = f"it gives {_size(value)}, the training pipeline {_size(expected)}"
            # A network may be cut at another place than mmseg's head; what comes of its logits is compared after the upsampling.
            found[stage].reshaped = stage != "logits"
            continue
        found[stage].add(_difference(stage, expected, value, deployed.std))


def _size(value: Any) -> str:
    """Shape of a map, of the first of several."""
    return "x".join(map(str, np.shape(value[0] if isinstance(value, list) else value)))


def _swapped(start: Trace, other: Trace, rest: Pipeline) -> list[Array | None]:
    """Class maps of ``start``, with its first k stages from ``other`` and what follows run by ``rest``; None where they do not fit."""
    maps: list[Array | None] = [start.argmax]
    current: Trace | None = start
    for stage, after in zip(STAGES, (*STAGES[1:], None), strict=True):
        value = getattr(other, stage)
        if current is None or not equal(getattr(current, stage), value):
            mixed = other.before(after) if after else other
            try:
                current = follow(rest, mixed)
            except Misfit:
                current = None
        maps.append(current.argmax if current else None)
    return maps


def _add(totals: list[Confusion | None], maps: Sequence[Array | None], count: Callable[[Array], Confusion]) -> None:
    counted: dict[int, Confusion] = {id(found): count(found) for found in maps if found is not None}
    for index, found in enumerate(maps):
        total = totals[index]
        totals[index] = None if found is None or total is None else total + counted[id(found)]


def _difference(stage: str, theirs: Any, ours: Any, std: Array) -> float:
    """How far a stage of two pipelines is apart, in the unit of its rule: normalised maps (3, h, w) in grey levels."""
    return float((np.abs(theirs - ours) * std).max()) if stage == "normalize" else _MEASURES[stage](theirs, ours)


def _levels(theirs: Array, ours: Array) -> float:
    """Largest difference in grey levels."""
    return float(np.abs(theirs.astype(np.float32) - ours).max())


def _windows(theirs: list[Any], ours: list[Any]) -> float:
    """Windows that only one of the two has."""
    return float(len(set(theirs) ^ set(ours)))


def _logits(theirs: list[Array], ours: list[Array]) -> float:
    return max(_decisions(one, other) for one, other in zip(theirs, ours, strict=True))


def _decisions(theirs: Array, ours: Array) -> float:
    """Share of positions (%) whose largest logit is another class's."""
    return _changed(theirs.argmax(0), ours.argmax(0))


def _changed(theirs: Array, ours: Array) -> float:
    return float(100 * (theirs != ours).mean())


_MEASURES: dict[str, Callable[[Any, Any], float]] = {
    "decode": _levels,
    "resize": _levels,
    "windows": _windows,
    "logits": _logits,
    "upsample": _decisions,
    "argmax": _changed,
}


def miou(total: Confusion | None) -> float | None:
    """mIoU in percent."""
    return None if total is None else float(summarize(total).miou)


def mmseg_miou(areas: list[Any]) -> float:
    """mIoU in percent of mmseg's ``IoUMetric`` over images."""
    from mmseg.evaluation import IoUMetric

    sums = [sum(each) for each in zip(*areas, strict=True)]
    return float(100 * np.nanmean(IoUMetric.total_area_to_metrics(*sums, ["mIoU"])["IoU"]))


def _mmseg_areas(found: Array, dataset: SegmentationSet, pair: Pair) -> Any:
    """What mmseg's metric counts on one image, its label loaded by mmseg's ``LoadAnnotations``."""
    import torch
    from mmseg.evaluation import IoUMetric
    from mmseg.registry import TRANSFORMS

    spec = dataset.spec
    with quietly():
        load = TRANSFORMS.build({"type": "LoadAnnotations", "reduce_zero_label": spec.reduce_zero_label})
    record: dict[str, Any] = {"seg_map_path": str(pair.label), "label_map": spec.label_map or None, "seg_fields": []}
    label = load({**record, "reduce_zero_label": spec.reduce_zero_label})["gt_seg_map"]
    prediction, truth = (torch.from_numpy(np.asarray(each, np.int64)) for each in (found, label))
    return IoUMetric.intersect_and_union(prediction, truth, spec.num_classes, spec.ignore_index)
