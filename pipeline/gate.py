"""The verdicts of a run: is the network better than guessing, is a compressed graph still exact, which one is the fastest of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segc.data.dataset import SegmentationSet


@dataclass(frozen=True)
class Candidate:
    """A graph on a backend: its mIoU in percent, latency p50 in milliseconds and file size in bytes."""

    precision: str
    backend: str
    miou: float
    p50_ms: float
    size: int

    @property
    def preferred(self) -> dict[str, str]:
        """As ``Manifest.preferred`` holds it."""
        return {"precision": self.precision, "backend": self.backend}


def class_counts(dataset: SegmentationSet, limit: int | None = None) -> NDArray[np.int64]:
    """Labelled pixels of each class (K,) in the first ``limit`` images."""
    counts = np.zeros(dataset.spec.num_classes, np.int64)
    for pair in dataset.pairs[:limit]:
        label = dataset.read_label(pair)
        counts += np.bincount(label[label != dataset.spec.ignore_index].ravel(), minlength=len(counts))
    return counts


def baselines(counts: NDArray[np.int64]) -> dict[str, float]:
    """mIoU in percent of two predictors that look at no image, as mmseg averages (classes absent from label and prediction left out).

    ``one_class``: the most frequent class everywhere; its IoU is its share f of the pixels, that of the others 0.
    ``random``: each pixel one of K classes, in expectation: TP = f/K of the pixels, union = f + 1/K - f/K.
    """
    share = counts / max(int(counts.sum()), 1)
    classes = len(share)
    return {
        "one_class": float(100 * share.max() / max(np.count_nonzero(share), 1)),
        "random": float(100 * np.mean(share / classes / (share + 1 / classes - share / classes))),
    }


def choose(candidates: Iterable[Candidate], reference_miou: float, max_drop: float) -> Candidate | None:
    """The fastest candidate whose mIoU is at most ``max_drop`` points below the reference; None when there is none."""
    exact = [each for each in candidates if reference_miou - each.miou <= max_drop]
    return min(exact, key=lambda each: each.p50_ms, default=None)


def failures(miou: Mapping[str, float], guesses: Mapping[str, float], max_drop: float, min_gain: float) -> list[str]:
    """Why the run fails, one sentence each; empty when it passes. ``miou``: worst of each precision, in percent."""
    best = max(guesses, key=lambda name: guesses[name])
    gain, drop = miou["fp32"] - guesses[best], miou["fp32"] - miou["int8"]
    found = []
    if gain < min_gain:
        found.append(f"fp32 mIoU {miou['fp32']:.2f} % is not {min_gain:g} points above the {best} baseline ({guesses[best]:.2f} %)")
    if drop > max_drop:
        found.append(f"int8 loses {drop:.2f} points of mIoU, allowed are {max_drop:g}")
    return found


def worst(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The lowest mIoU of each precision over its backends."""
    found: dict[str, float] = {}
    for each in candidates:
        found[each.precision] = min(each.miou, found.get(each.precision, each.miou))
    return found
