"""Metrics against mmseg's own IoUMetric, on generated maps with absent classes and ignored pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.evaluation import IoUMetric

from segc.validate.metrics import confusion, one_class_baseline, random_baseline, summarize

IGNORE = 255


def mmseg_scores(prediction: np.ndarray, label: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    areas = IoUMetric.intersect_and_union(torch.from_numpy(prediction), torch.from_numpy(label), classes, IGNORE)
    return IoUMetric.total_area_to_metrics(*areas, metrics=["mIoU"])


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    classes = draw(st.sampled_from([2, 11, 19, 150]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    used = rng.choice(classes, max(1, classes // 2), replace=False)
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    label, prediction = rng.choice(used, shape), rng.choice(classes, shape)
    label[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = IGNORE
    return prediction.astype(np.uint8), label.astype(np.uint8), classes


@given(maps())
@settings(max_examples=60, deadline=None)
def test_scores_are_mmsegs(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, label, classes = case
    matrix = confusion(prediction, label, classes)
    if not matrix.sum():
        return
    found, expected = summarize(matrix), mmseg_scores(prediction.astype(np.int64), label.astype(np.int64), classes)
    np.testing.assert_allclose(found.iou, 100 * expected["IoU"], atol=1e-4)
    np.testing.assert_allclose(found.acc, 100 * expected["Acc"], atol=1e-4)
    assert found.miou == pytest.approx(100 * float(np.nanmean(expected["IoU"])), abs=1e-4)
    assert found.aacc == pytest.approx(100 * float(expected["aAcc"]), abs=1e-4)


@given(maps())
@settings(max_examples=40, deadline=None)
def test_the_fast_path_counts_what_the_plain_one_counts(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, label, classes = case
    np.testing.assert_array_equal(
        confusion(prediction, label, classes), confusion(prediction.astype(np.int32), label.astype(np.int32), classes)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_values_out_of_range_are_refused(dtype: type) -> None:
    good, bad = np.zeros((2, 2), dtype), np.full((2, 2), 7, dtype)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        confusion(good, bad, 3)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        confusion(bad, good, 3)
    with pytest.raises(ValueError, match="shape"):
        confusion(good, good[:1], 3)


def test_counts_beyond_what_float32_holds_stay_exact() -> None:
    ones = np.ones((4097, 4097), np.uint8)
    assert ones.size > 2**24 and confusion(ones, ones, 2)[1, 1] == ones.size


def test_baselines_are_those_of_predictors_that_look_at_no_image() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(6, 400_000, p=[0.5, 0.2, 0.15, 0.1, 0.05, 0.0])
    matrix = np.diag(np.bincount(label, minlength=6))
    constant = max(float(np.nanmean(mmseg_scores(np.full_like(label, each), label, 6)["IoU"])) for each in range(6))
    uniform = float(np.nanmean(mmseg_scores(rng.integers(0, 6, label.size), label, 6)["IoU"]))
    assert one_class_baseline(matrix) == pytest.approx(100 * constant, abs=1e-4)
    assert random_baseline(matrix) == pytest.approx(100 * uniform, abs=0.1)
