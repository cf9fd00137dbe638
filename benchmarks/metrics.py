"""Label maps a second of segc's metrics and statistics against mmseg's ``IoUMetric`` and torchmetrics; boundary IoU against mask by mask.

    python -m benchmarks.metrics [MAPS]

Maps are generated, 1024 x 2048, 19 classes, smooth regions with errors at their edges, some pixels not to count; a few are made and counted
again and again. The others get their tensors ready made. Turns are taken in one process. segc's rate is taken with and without the paired
bootstrap (10,000 draws) at the end of MAPS maps; the others have no statistics. torchmetrics is no dependency: without it its rows are left
out, and it is said. Results: benchmarks/results/metrics.json.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from scipy import ndimage

from segc.core.files import write_json
from segc.core.rows import Row, environment, package_version
from segc.validate.bootstrap import Bootstrap, paired_drops
from segc.validate.confusions import Confusions
from segc.validate.metrics import class_iou, confusion, summarize
from segc.validate.places import Places, boundary_distance, inner_borders

RESULTS = Path(__file__).parent / "results" / "metrics.json"
MAPS, DISTINCT, ROUNDS, BATCH, THREADS = 2000, 6, 5, 12, 2
SIZE, CLASSES, IGNORE = (1024, 2048), 19, 255
Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def main(maps: int = MAPS) -> None:
    """Measure, print and store."""
    torch.set_num_threads(THREADS)
    pairs = [make_pair(seed) for seed in range(DISTINCT)]
    conditions = {
        "size": SIZE,
        "classes": CLASSES,
        "torch threads": THREADS,
        "segc threads": 1,
        "torchmetrics": package_version("torchmetrics"),
    }
    rows = [*_metric_rows(pairs, maps, conditions), *_boundary_rows(pairs, conditions)]
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})
    for row in rows:
        print(f"{row.metric:62s} {row.value:9.2f} {row.unit}")
    if package_version("torchmetrics") is None:
        print("torchmetrics is not installed here: not measured")


def make_pair(seed: int) -> Pair:
    """(prediction, label): the label follows a smooth field, the prediction the same field at a quarter of the size with an error."""
    rng = np.random.default_rng(seed)
    field, error = _field(rng, 64), _field(rng, 16)
    label = field.argmax(0).astype(np.uint8)
    coarse = [cv2.resize(cv2.resize(each, (SIZE[1] // 4, SIZE[0] // 4)), SIZE[::-1]) for each in field + np.float32(0.05) * error]
    label[900:, :], label[:, :40] = IGNORE, IGNORE
    return np.stack(coarse).argmax(0).astype(np.uint8), label


def _field(rng: np.random.Generator, step: int) -> np.ndarray[Any, Any]:
    noise = rng.standard_normal((CLASSES, SIZE[0] // step, SIZE[1] // step)).astype(np.float32)
    return np.stack([cv2.resize(each, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for each in noise])


def _metric_rows(pairs: list[Pair], maps: int, conditions: dict[str, Any]) -> list[Row]:
    counters = {"segc": _segc, "mmseg IoUMetric": _mmseg, **({"torchmetrics": _torchmetrics} if package_version("torchmetrics") else {})}
    ready = {name: prepare(pairs) for name, prepare in counters.items()}
    rates: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, count in ready.items():
            rates[name].append(BATCH / _seconds(lambda count=count: count(BATCH)))  # type: ignore[misc]
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    rate, growth = _whole(pairs, maps)
    medians["segc with statistics"] = rate
    rows = [Row(metric=f"{name}, metrics", value=value, unit="maps/s", n=ROUNDS, conditions=conditions) for name, value in medians.items()]
    for own, other in itertools.product(("segc", "segc with statistics"), list(counters)[1:]):
        rows.append(Row(metric=f"{own} / {other}", value=medians[own] / medians[other], unit="ratio", n=ROUNDS, conditions=conditions))
    return [*rows, Row(metric=f"memory added, {maps // 10} to {maps} maps", value=growth, unit="MiB", n=1, conditions=conditions)]


def _segc(pairs: list[Pair]) -> Callable[[int], object]:
    def count(maps: int) -> object:
        found = Confusions(CLASSES)
        for prediction, label in itertools.islice(itertools.cycle(pairs), maps):
            found.append(confusion(prediction, label, CLASSES, IGNORE))
        return summarize(found.total)

    return count


def _mmseg(pairs: list[Pair]) -> Callable[[int], object]:
    tensors = [[torch.from_numpy(each.astype(np.int64))[None] for each in pair] for pair in pairs]
    samples = [{"pred_sem_seg": {"data": found}, "gt_sem_seg": {"data": label}} for found, label in tensors]

    def count(maps: int) -> object:
        metric = IoUMetric(ignore_index=IGNORE)
        metric.dataset_meta = {"classes": [str(index) for index in range(CLASSES)]}
        for sample in itertools.islice(itertools.cycle(samples), maps):
            metric.process({}, [sample])
        return IoUMetric.total_area_to_metrics(*(sum(areas) for areas in zip(*metric.results, strict=True)), metrics=["mIoU"])

    return count


def _torchmetrics(pairs: list[Pair]) -> Callable[[int], object]:
    from torchmetrics.classification import MulticlassJaccardIndex

    samples = [tuple(torch.from_numpy(each.astype(np.int64)) for each in pair) for pair in pairs]

    def count(maps: int) -> object:
        metric = MulticlassJaccardIndex(CLASSES, ignore_index=IGNORE, validate_args=False)
        for found, label in itertools.islice(itertools.cycle(samples), maps):
            metric.update(found, label)
        return metric.compute()

    return count


def _whole(pairs: list[Pair], maps: int) -> tuple[float, float]:
    """(maps a second of counting ``maps`` maps and of the bootstrap of their drop against others, growth of memory while counting, MiB)."""
    reference = Confusions(CLASSES)
    for prediction, label in itertools.islice(itertools.cycle(pairs), maps):
        reference.append(confusion(prediction[:512], label[:512], CLASSES, IGNORE))
    start, found, early = time.perf_counter(), Confusions(CLASSES), 0.0
    for index, (prediction, label) in enumerate(itertools.islice(itertools.cycle(pairs), maps)):
        found.append(confusion(prediction, label, CLASSES, IGNORE))
        early = _resident_mib() if index == maps // 10 else early
    growth = _resident_mib() - early
    paired_drops(reference.counts(), found.counts(), Bootstrap())
    return maps / (time.perf_counter() - start), growth


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _boundary_rows(pairs: list[Pair], conditions: dict[str, Any]) -> list[Row]:
    """Boundary IoU of one map in three forms that agree, and all places of ``segc validate --boundary``."""
    prediction, label = pairs[0]
    label = np.where(label == IGNORE, 0, label).astype(np.uint8)
    distance = boundary_distance(SIZE)
    forms: dict[str, Callable[[], Any]] = {
        "segc, class map": lambda: _class_map(prediction, label, distance),
        "OpenCV, mask by mask": lambda: _masks(prediction, label, lambda mask: _opencv_border(mask, distance)),
        "scipy, mask by mask": lambda: _masks(prediction, label, lambda mask: _scipy_border(mask, distance)),
    }
    found = [form() for form in forms.values()]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other)
    repeats = {"segc, class map": 15, "OpenCV, mask by mask": 5, "scipy, mask by mask": 1}
    times = {name: float(np.median([1000 * _seconds(form) for _ in range(repeats[name])])) for name, form in forms.items()}
    times["segc, borders, band and small regions"] = float(
        np.median([1000 * _seconds(lambda: _places(prediction, label)) for _ in range(5)])
    )
    rows = [
        Row(metric=f"boundary IoU: {name}", value=value, unit="ms", n=repeats.get(name, 5), conditions=conditions)
        for name, value in times.items()
    ]
    own = times["segc, class map"]
    for name in list(forms)[1:]:
        rows.append(
            Row(metric=f"boundary IoU: {name} / segc", value=times[name] / own, unit="ratio", n=repeats[name], conditions=conditions)
        )
    return rows


def _class_map(prediction: np.ndarray[Any, Any], label: np.ndarray[Any, Any], distance: int) -> Any:
    borders = [inner_borders(each, distance, CLASSES) for each in (prediction, label)]
    return class_iou(confusion(borders[0], borders[1], CLASSES + 1, IGNORE))[:CLASSES]


def _places(prediction: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> object:
    return Places(label, CLASSES, IGNORE).confusions(prediction)


def _masks(prediction: np.ndarray[Any, Any], label: np.ndarray[Any, Any], border: Callable[[Any], Any]) -> list[float]:
    scores = []
    for kind in range(CLASSES):
        one, other = (border(each == kind) for each in (prediction, label))
        union = np.logical_or(one, other).sum()
        scores.append(100 * np.logical_and(one, other).sum() / union if union else np.nan)
    return scores


def _opencv_border(mask: Any, distance: int) -> Any:
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1] == 0)


def _scipy_border(mask: Any, distance: int) -> Any:
    return mask & (ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1] <= distance)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
