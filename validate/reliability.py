"""Whether probabilities mean what they say: expected calibration error over the labelled pixels, in a pass of its own.

A pixel's confidence is the probability of its class. Bins of equal width; ECE is the mean over pixels of |accuracy - confidence| of their
bin. Sources: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015; Guo, Pleiss, Sun and
Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (15 bins).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.files import write_json
from segc.core.progress import track
from segc.core.rows import Row, environment
from segc.data.dataset import SegmentationSet
from segc.runtime.runner import Runner, open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import parse_target
from segc.validate.scoring import load_pair
from segc.validate.sides import Side

BINS = 15


class Reliability:
    """Labelled pixels by bin of confidence: how many, how many of them right, and the sum of their confidences."""

    def __init__(self) -> None:
        self.pixels = np.zeros(BINS, np.int64)
        self.right = np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)

    def add(self, probabilities: NDArray[np.float32], label: NDArray[np.integer], ignore_index: int) -> None:
        """Count one image: probabilities (K, H, W), label (H, W)."""
        counted = label != ignore_index
        confidence = probabilities.max(0)[counted].astype(np.float64)
        right = (probabilities.argmax(0) == label)[counted]
        index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self.pixels += np.bincount(index, minlength=BINS)
        self.right += np.bincount(index[right], minlength=BINS)
        self.confidence += np.bincount(index, confidence, BINS)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Confidence minus accuracy of every bin, in points; 0 for an empty one. Above zero: surer than right."""
        return 100 * (self.confidence - self.right) / np.maximum(self.pixels, 1)

    @property
    def ece(self) -> float:
        """Expected calibration error in points."""
        return float(np.abs(self.gaps) @ self.pixels / max(int(self.pixels.sum()), 1))


def reliability(target: str, dataset: SegmentationSet, *, backend: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """Expected calibration error of an artefact that gives logits or probabilities, or of a checkpoint; stored in a bundle's ``results/``.

    Raises:
        UserError: a graph that gives class maps only, an unreadable image or label, or a label of another size.
    """
    side, runner = Side.of(target, backend), _with_probabilities(target, backend)
    segmenter, counted = Segmenter(runner), Reliability()
    pairs = dataset.pairs[:limit]
    for pair in track(pairs, "calibration of the probabilities"):
        image, label = load_pair(dataset, pair)
        found = segmenter.logits(image)
        probabilities = found if runner.contract.output == "probabilities" else _softmax(found)
        counted.add(probabilities, label, dataset.spec.ignore_index)
    result = {
        "kind": "reliability",
        **side.as_json(),
        **_numbers(counted, len(pairs), {"precision": side.precision, "backend": side.backend, "split": dataset.split}),
        "environment": environment(),
    }
    if path := side.result_file("reliability"):
        write_json(path, result)
    return result


def _with_probabilities(target: str, backend: str | None) -> Runner:
    """The artefact; a checkpoint, which can give anything, so that it gives probabilities (logits where windows are averaged)."""
    runner = open_runner(target, backend)
    if parse_target(target).kind != "checkpoint" or runner.contract.output != "argmax":
        return runner
    return open_runner(target, backend, contract=runner.contract.model_copy(update={"output": "probabilities"}))


def _numbers(counted: Reliability, n: int, conditions: dict[str, Any]) -> dict[str, Any]:
    pixels = max(int(counted.pixels.sum()), 1)
    values = {
        "ECE": counted.ece,
        "mean confidence - accuracy": float(100 * (counted.confidence.sum() - counted.right.sum()) / pixels),
    }
    rows = [Row(metric=name, value=value, unit="points", n=n, conditions={**conditions, "bins": BINS}) for name, value in values.items()]
    bins = [
        {"from": index / BINS, "to": (index + 1) / BINS, "pixels": int(count), "gap": float(gap)}
        for index, (count, gap) in enumerate(zip(counted.pixels, counted.gaps, strict=True))
    ]
    return {"rows": [row.model_dump() for row in rows], "bins": bins}


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(0))
    return np.asarray(shifted / shifted.sum(0), np.float32)
