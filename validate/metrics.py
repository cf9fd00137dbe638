"""Segmentation metrics as pure functions of integer confusion matrices. All shares are in percent."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Confusion = NDArray[np.int64]
Scores = NDArray[np.float64]

_EXACT = 1 << 24


def confusion(prediction: NDArray[np.integer], label: NDArray[np.integer], num_classes: int, ignore_index: int = 255) -> Confusion:
    """Confusion matrix (K, K) of one image, int64: row = label, column = prediction; pixels labelled ``ignore_index`` do not count.

    Raises:
        ValueError: shapes differ, or a class is out of range.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape")
    if num_classes < 256 and prediction.dtype == np.uint8 and label.dtype == np.uint8 and ignore_index < 256:
        return _confusion8(prediction, label, num_classes, ignore_index)
    counted = label != ignore_index
    truth, found = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for what, values in (("label", truth), ("prediction", found)):
        if values.size and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{what} holds {values.min()}..{values.max()}, expected 0..{num_classes - 1}")
    return np.bincount(truth * num_classes + found, minlength=num_classes**2).reshape(num_classes, num_classes)


def _confusion8(prediction: NDArray[np.integer], label: NDArray[np.integer], num_classes: int, ignore_index: int) -> Confusion:
    """The same for 8-bit maps: one pass over the pixels, range checks on the 256 x 256 counts instead of the pixels."""
    counts = _pairs8(label, prediction)
    counts[ignore_index] = 0
    matrix = counts[:num_classes, :num_classes]
    if counts.sum() != matrix.sum():
        rows, columns = np.nonzero(counts)
        raise ValueError(f"label holds 0..{rows.max()} and prediction 0..{columns.max()}, expected 0..{num_classes - 1}")
    return matrix.copy()


def _pairs8(first: NDArray[np.integer], second: NDArray[np.integer]) -> Confusion:
    """How often every pair of 8-bit values occurs, (256, 256). OpenCV gives float32 counts, so that a piece has at most 2^24 pixels."""
    total = np.zeros((256, 256), np.int64)
    one, other = (np.ascontiguousarray(each).reshape(-1) for each in (first, second))
    for start in range(0, one.size, _EXACT):
        pair = [one[start : start + _EXACT], other[start : start + _EXACT]]
        total += cv2.calcHist(pair, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


@dataclass(frozen=True)
class Summary:
    """Scores of a confusion matrix in percent, mmseg's ``IoUMetric``: classes absent from label and prediction are NaN and not averaged.

    iou: TP / (TP + FP + FN), acc: TP / (TP + FN), per class. aacc: share of counted pixels that are right.
    """

    iou: Scores
    acc: Scores
    miou: float
    macc: float
    aacc: float


def summarize(matrix: Confusion) -> Summary:
    """Scores of a confusion matrix (K, K)."""
    iou, acc = class_iou(matrix), class_acc(matrix)
    total = matrix.sum()
    aacc = float(100 * np.trace(matrix) / total) if total else float("nan")
    return Summary(iou, acc, mean(iou), mean(acc), aacc)


def class_iou(matrix: Confusion) -> Scores:
    """IoU of every class, (..., K) for (..., K, K), in percent; NaN where the class occurs nowhere."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - right
    return percent(right, union)


def class_acc(matrix: Confusion) -> Scores:
    """Share of every class's pixels that is found, in percent; NaN where no label has the class."""
    return percent(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1))


def mean(scores: Scores) -> float:
    """Mean of the scores that are numbers; NaN when none is."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def one_class_baseline(matrix: Confusion) -> float:
    """Best mIoU in percent of a predictor that gives every pixel the same class."""
    pixels = matrix.sum(1)
    present = np.count_nonzero(pixels)
    return float(100 * pixels.max() / pixels.sum() / present) if present else float("nan")


def random_baseline(matrix: Confusion) -> float:
    """Expected mIoU in percent of a predictor that draws every pixel's class uniformly.

    With p = 1/K: TP = p n_c, union = n_c + p N - p n_c.
    """
    pixels, chance = matrix.sum(1).astype(np.float64), 1 / len(matrix)
    return mean(percent(chance * pixels, pixels + chance * (pixels.sum() - pixels)))


def percent(part: NDArray[np.number], whole: NDArray[np.number]) -> Scores:
    """``part`` of ``whole`` in percent, NaN where ``whole`` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 100.0 * part / whole, np.nan)
