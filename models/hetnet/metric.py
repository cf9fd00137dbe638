"""Metrics of mirror detection, image by image as the published evaluation takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from numpy.typing import NDArray

from segc.core.errors import UserError

_LEVELS = 256
_BETA_SQUARED = 0.3
_SMALL = 1e-4

Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]


def mask_iou(found: Mask, truth: Mask) -> float:
    """IoU of two masks; 1 when both are empty."""
    either = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / either if either else 1.0


def balanced_error_rate(found: Mask, truth: Mask) -> float:
    """Share of wrong pixels, mirror and background each for itself, then averaged; a kind that the truth has not is left out."""
    wrong = found != truth
    return float(np.mean([wrong[kind].mean() for kind in (truth, ~truth) if kind.any()]))


def stretched(picture: Grey) -> NDArray[np.float32]:
    """A grey picture stretched to 0..1 between its own darkest and brightest pixel; a flat one becomes 0."""
    low, high = int(picture.min()), int(picture.max())
    return (picture.astype(np.float32) - low) / np.float32(max(high - low, 1))


def precision_recall(picture: Grey, truth: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of ``picture > level`` for the 256 levels, each with 1e-4 added to both counts."""
    levels = np.bincount(picture.ravel(), minlength=_LEVELS)
    right = np.bincount(picture[truth], minlength=_LEVELS)
    positive, true_positive = (np.cumsum(counts[::-1])[::-1] - counts for counts in (levels, right))
    return (true_positive + _SMALL) / (positive + _SMALL), (true_positive + _SMALL) / (np.count_nonzero(truth) + _SMALL)


def max_f_beta(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """Largest F-beta over the levels, beta squared 0.3."""
    return float(((1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)).max())


@METRICS.register_module()
class MirrorMetric(BaseMetric):
    """IoU, accuracy, balanced error rate, maximal F-beta and MAE of a network with one probability a pixel, as shares (0 to 1).

    As published: probabilities are rounded to 8 bits; IoU, pixel accuracy and BER are means over images of the mask from level 128; MAE
    compares the mask with the picture stretched to 0..1 (so that it says nothing on calibration); F-beta is the largest of the mean curves.

    Raises:
        UserError: the network gives more than one channel.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Score each sample's ``seg_logits`` (mmseg holds probabilities there when there is one channel)."""
        for sample in data_samples:
            probability = sample["seg_logits"]["data"].squeeze().float().cpu().numpy()
            if probability.ndim != 2:
                raise UserError(f"MirrorMetric got {probability.shape[0]} channels; expected one probability a pixel (out_channels=1).")
            self.results.append(self._scores(probability, sample["gt_sem_seg"]["data"].squeeze().cpu().numpy() == 1))

    def compute_metrics(self, results: list[tuple[float, float, float, float, Any, Any]]) -> dict[str, float]:
        """Means over the images."""
        *scores, precision, recall = zip(*results, strict=True)
        means = {name: float(np.mean(values)) for name, values in zip(("IoU", "accuracy", "BER", "MAE"), scores, strict=True)}
        return {**means, "F-beta": max_f_beta(np.mean(precision, 0), np.mean(recall, 0))}

    @staticmethod
    def _scores(probability: NDArray[np.float32], truth: Mask) -> tuple[float, float, float, float, Any, Any]:
        picture = np.round(probability * (_LEVELS - 1)).astype(np.uint8)
        found, spread = picture >= _LEVELS // 2, stretched(picture)
        curves = precision_recall((spread * (_LEVELS - 1)).astype(np.uint8), truth)
        error = float(np.abs(spread - truth).mean())
        return mask_iou(found, truth), float((found == truth).mean()), balanced_error_rate(found, truth), error, *curves
