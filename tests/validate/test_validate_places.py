"""Borders and small regions against the straightforward form: mask by mask with OpenCV's erosion, region by region with scipy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segc.validate.confusions import Confusions
from segc.validate.metrics import class_acc, class_iou
from segc.validate.places import SMALL_PIXELS, Places, boundary_distance, near_border


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """(prediction, label, classes): blobs with ragged edges, holes, thin lines, single pixels and pixels that do not count."""
    rng, classes = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([2, 5, 253, 254, 255, 300]))
    shape = (draw(st.integers(2, 90)), draw(st.integers(2, 120)))
    dtype = np.uint8 if classes < 256 else np.int32
    coarse = rng.integers(0, min(classes, 4), (shape[0] // 8 + 1, shape[1] // 8 + 1)) * ((classes - 1) // 4 if classes > 5 else 1)
    label = np.kron(coarse, np.ones((8, 8), int))[: shape[0], : shape[1]]
    noise = rng.random(shape)
    label = np.where(noise < draw(st.sampled_from([0, 0.02, 0.3])), rng.integers(0, classes, shape), label)
    prediction = np.where(rng.random(shape) < 0.1, rng.integers(0, classes, shape), np.roll(label, (1, 2), (0, 1)))
    return prediction.astype(dtype), np.where(noise > 0.97, 255 if classes < 256 else 999, label).astype(dtype), classes


def paper_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Inner border of a mask as the paper's authors describe it: the mask without its erosion by ``distance`` steps; outside is no mask."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & ~cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1].astype(bool)


def ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return 100 * part.sum() / whole.sum() if whole.any() else np.nan


@given(maps())
@settings(max_examples=60)
def test_boundary_iou_is_the_papers(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, label, classes = case
    ignore = 255 if classes < 256 else 999
    found = class_iou(Places(label, classes, ignore).confusions(prediction)["boundary"])[:-1]
    distance, counted = boundary_distance(label.shape), label != ignore
    for kind in np.union1d(np.unique(prediction), np.unique(label[counted])):
        if kind == ignore:
            continue
        truth, guess = (paper_boundary(each == kind, distance) & counted for each in (label, prediction))
        assert found[kind] == pytest.approx(ratio(truth & guess, truth | guess), nan_ok=True)


@given(maps())
@settings(max_examples=40)
def test_band_iou_is_that_of_the_pixels_near_a_labels_border(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, label, classes = case
    ignore = 255 if classes < 256 else 999
    matrix = Places(label, classes, ignore).confusions(prediction)["band"]
    low, high = (each(label, size=11, mode="nearest") for each in (ndimage.minimum_filter, ndimage.maximum_filter))
    band = (low != high) & (label != ignore)
    expected = np.zeros((classes, classes), int)
    np.add.at(expected, (label[band], prediction[band]), 1)
    np.testing.assert_array_equal(matrix, expected)


@given(maps())
@settings(max_examples=40)
def test_small_regions_are_scipys_and_found_by_most_of_their_pixels(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, label, classes = case
    ignore = 255 if classes < 256 else 999
    matrix = Places(label, classes, ignore).confusions(prediction)["small"]
    total, right = np.zeros(classes, int), np.zeros(classes, int)
    least = np.zeros(classes, int)
    for kind in np.unique(label[label != ignore]):
        regions, count = ndimage.label(label == kind, np.ones((3, 3)))
        for number in range(1, count + 1):
            given_class = prediction[regions == number]
            if given_class.size > SMALL_PIXELS:
                continue
            votes = np.bincount(given_class, minlength=classes)
            total[kind] += 1
            right[kind] += votes[kind] == votes.max()
            least[kind] += votes[kind] == votes.max() and (votes == votes.max()).sum() == 1
    np.testing.assert_array_equal(matrix.sum(1), total)
    assert (np.diag(matrix) <= right).all() and (np.diag(matrix) >= least).all()


def test_a_region_in_the_hole_of_another_of_its_class_stands_for_itself() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[5:20, 5:20], label[8:17, 8:17], label[11:14, 11:14] = 1, 0, 1
    prediction = label.copy()
    prediction[11:14, 11:14] = 0
    matrix = Places(label, 2).confusions(prediction)["small"]
    np.testing.assert_array_equal(matrix, [[1, 0], [1, 1]])


def test_a_large_region_is_not_small() -> None:
    label = np.zeros((64, 64), np.uint8)
    label[:32, :32] = 1
    assert Places(label, 2).confusions(label)["small"].tolist() == [[0, 0], [0, 1]]
    label[32, 0] = 1
    assert Places(label, 2).confusions(label)["small"].sum() == 0


def test_a_perfect_prediction_is_perfect_everywhere() -> None:
    label = np.random.default_rng(0).integers(0, 5, (50, 60), np.uint8)
    for name, matrix in Places(label, 5).confusions(label).items():
        scores = class_acc(matrix) if name == "small" else class_iou(matrix)
        assert set(scores[:5]) == {100.0}, name


def test_distances_scale_with_the_image() -> None:
    assert boundary_distance((1024, 2048)) == 46 and boundary_distance((3, 3)) == 1
    middle = np.zeros((21, 21), np.uint8)
    middle[10, 10] = 1
    assert near_border(middle, 3, frame=False).sum() == 49 and near_border(middle, 3).sum() == 21**2 - 15**2 + 49


def test_boundary_matrices_are_kept_like_any_other() -> None:
    label = np.zeros((30, 30), np.uint8)
    kept = Confusions(3)
    kept.append(Places(label, 2).confusions(label)["boundary"])
    assert kept.counts(2).right.tolist() == [[30 * 30 - 28 * 28, 0]]
