"""How often the intervals of a drop hold the true one: coverage of the percentile and the BCa bootstrap at several numbers of images.

    python -m benchmarks.bootstrap [CONFUSIONS] [SETS]

The population are the per-image matrices of a real validation (CONFUSIONS: a ``*.confusion.npz`` with two artefacts, such as
``demo/bundle/results/validation.int8.openvino.confusion.npz``); without one, synthetic images: every class has a difficulty of its own in
every image, and the target is a little worse. The true drop is the population's. SETS sets of n images are drawn from it with replacement,
and each gets its interval by both methods over the same draws. Results: benchmarks/results/bootstrap.json.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from segc.core.files import sha256_file, write_json
from segc.core.rows import Row, environment
from segc.validate.bootstrap import METHODS, Bootstrap, paired_drops, scores
from segc.validate.confusions import ClassCounts, load_confusions

RESULTS = Path(__file__).parent / "results" / "bootstrap.json"
SIZES, SETS, RESAMPLES, CONFIDENCE, SEED = (25, 50, 100, 400), 400, 1000, 0.9, 0
IMAGES, CLASSES, PIXELS = 5000, 11, 100_000


def main(confusions: str = "", sets: int = SETS) -> None:
    """Measure, print and store."""
    populations = {"synthetic": synthetic(np.random.default_rng(SEED))}
    if confusions:
        sides = load_confusions(Path(confusions))
        populations["real"] = sides["against"].counts(), sides["target"].counts()
    rows = [row for name, population in populations.items() for size in SIZES for row in coverage(name, population, size, sets)]
    source = {"name": Path(confusions).name, "sha256": sha256_file(confusions)} if confusions else None
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "real": source, "environment": environment()})
    for row in rows:
        print(f"{row.metric:24s} {row.conditions['population']:10s} {row.conditions['images']:4d} images {row.value:6.1f} % of {row.n}")


def synthetic(rng: np.random.Generator) -> tuple[ClassCounts, ClassCounts]:
    """(reference, target): of every image, its share of each class, and of each class what is found right and what is wrongly found."""
    label = rng.dirichlet(np.full(CLASSES, 0.3), IMAGES) * PIXELS
    label[label < PIXELS / 200] = 0
    hard = rng.normal(0, 1, (IMAGES, CLASSES)) + rng.normal(1, 0.7, CLASSES)
    lost = np.abs(rng.normal(0.05, 0.1, (IMAGES, CLASSES)))
    return _counts(label, hard), _counts(label, hard - lost)


def _counts(label: np.ndarray[Any, Any], logit: np.ndarray[Any, Any]) -> ClassCounts:
    """Whole pixels; what a class loses in an image is found to be the image's other classes, by their size."""
    right = np.floor(label / (1 + np.exp(-logit)))
    wrong = (label - right).sum(1, keepdims=True) * label / np.maximum(label.sum(1, keepdims=True), 1)
    return ClassCounts(right, np.floor(label), right + np.floor(wrong))


def coverage(name: str, population: tuple[ClassCounts, ClassCounts], size: int, sets: int) -> list[Row]:
    """Rows of the share of sets whose interval holds the population's drop of mIoU, by method."""
    truth, held, width = _drop(population), dict.fromkeys(METHODS, 0), dict.fromkeys(METHODS, 0.0)
    rng = np.random.default_rng([SEED, size])
    for number in range(sets):
        chosen = rng.integers(0, len(population[0].label), size)
        reference, target = (each.only(chosen) for each in population)
        for method in METHODS:
            drops = paired_drops(reference, target, Bootstrap(RESAMPLES, CONFIDENCE, number, method))
            assert drops is not None
            interval = drops.means["mIoU"]
            held[method] += interval.low <= truth <= interval.high
            width[method] += (interval.high - interval.low) / sets
    return [_row(name, method, size, sets, held[method] / sets, width[method], truth) for method in METHODS]


def _row(name: str, method: str, size: int, sets: int, share: float, width: float, truth: float) -> Row:
    conditions = {"population": name, "images": size, "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED}
    error = {"standard_error": 100 * math.sqrt(share * (1 - share) / sets), "mean_width_points": width, "true_drop_points": truth}
    return Row(metric=f"coverage, {method}", value=100 * share, unit="%", n=sets, conditions={**conditions, **error})


def _drop(population: tuple[ClassCounts, ClassCounts]) -> float:
    before, after = (scores(each.total)[0] for each in population)
    return float(before - after)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
