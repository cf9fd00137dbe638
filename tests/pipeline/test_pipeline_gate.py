"""Baselines against mmseg's own metric; the choice and the gate on small cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segc.data.dataset import open_dataset
from segc.pipeline.gate import Candidate, baselines, choose, class_counts, failures, worst


def mmseg_miou(prediction: np.ndarray, label: np.ndarray, classes: int) -> float:
    import torch
    from mmseg.evaluation import IoUMetric

    areas = IoUMetric.intersect_and_union(torch.from_numpy(prediction), torch.from_numpy(label), classes, 255)
    return float(100 * np.nanmean(IoUMetric.total_area_to_metrics(*areas, metrics=["mIoU"])["IoU"]))


def test_baselines_equal_mmseg_on_predictions_that_look_at_no_image() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(6, 400_000, p=[0.5, 0.2, 0.15, 0.1, 0.05, 0.0])
    found = baselines(np.bincount(label, minlength=6))
    assert found["one_class"] == pytest.approx(mmseg_miou(np.zeros_like(label), label, 6), abs=1e-4)
    assert found["random"] == pytest.approx(mmseg_miou(rng.integers(0, 6, label.size), label, 6), abs=0.1)


def test_class_counts_leave_ignored_pixels_out(camvid: Path) -> None:
    dataset = open_dataset(camvid)
    counts = class_counts(dataset, limit=2)
    labels = [dataset.read_label(pair) for pair in dataset.pairs[:2]]
    assert counts.sum() == sum(int((label != dataset.spec.ignore_index).sum()) for label in labels)
    assert counts[3] == sum(int((label == 3).sum()) for label in labels)


FAST_BUT_WRONG = Candidate("int8", "openvino", 55.0, 5.0, 10)
EXACT = Candidate("int8", "onnxruntime", 59.5, 8.0, 10)
FULL = Candidate("fp32", "openvino", 60.0, 20.0, 40)


def test_the_fastest_exact_candidate_is_chosen() -> None:
    assert choose([FAST_BUT_WRONG, EXACT, FULL], 60.0, 1.0) is EXACT
    assert choose([FAST_BUT_WRONG, EXACT, FULL], 60.0, 6.0) is FAST_BUT_WRONG
    assert choose([FAST_BUT_WRONG], 60.0, 1.0) is None


def test_gate() -> None:
    guesses = {"one_class": 4.0, "random": 3.0}
    assert worst([FAST_BUT_WRONG, EXACT, FULL]) == {"int8": 55.0, "fp32": 60.0}
    assert failures({"fp32": 60.0, "int8": 59.5}, guesses, 1.0, 10.0) == []
    assert "int8 loses 5.00 points" in failures({"fp32": 60.0, "int8": 55.0}, guesses, 1.0, 10.0)[0]
    assert "one_class baseline (4.00 %)" in failures({"fp32": 13.9, "int8": 13.9}, guesses, 1.0, 10.0)[0]
