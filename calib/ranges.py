"""Ranges of tensors from streamed histograms: memory does not grow with the number of images.

All ranges are symmetric: ``amax`` stands for [-amax, amax], which int8 covers with scale amax / 127.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError, nearest

BINS = 2048
LEVELS = 127
# Values below 2**-100 count as the smallest bin: a narrower bin would underflow in float32.
_LEAST_EXPONENT = -100
METHODS = ("minmax", "percentile", "mse", "entropy")
DEFAULT_PERCENTILE = 99.99

Counts = NDArray[np.int64]


class AbsHistogram:
    """Histogram of |x| over many arrays: ``BINS`` bins from 0, the bin width doubles when a larger value arrives.

    Doubling merges neighbouring bins exactly, so that the order of the images does not change the counts.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.amax = 0.0

    def update(self, values: NDArray[Any]) -> None:
        """Count the values of an array of any shape.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        magnitude = np.abs(np.asarray(values, np.float32)).ravel()
        top = float(magnitude.max(initial=0.0))
        if not np.isfinite(top):
            raise ValueError("NaN or infinite values")
        self.amax = max(self.amax, top)
        if top == 0.0:
            self.counts[0] += magnitude.size
            return
        self._widen(top)
        index = np.minimum((magnitude / np.float32(self.width)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)

    @property
    def centres(self) -> NDArray[np.floating]:
        """Middle of every bin."""
        return (np.arange(BINS) + 0.5) * self.width

    def _widen(self, top: float) -> None:
        if self.width == 0.0:
            # A power of two above the value, so that the bins of any order of images are the same.
            self.width = 2.0 ** max(math.frexp(top)[1], _LEAST_EXPONENT) / BINS
        while self.width * BINS <= top:
            half = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([half, np.zeros(BINS // 2, np.int64)])
            self.width *= 2


def amax_of(histogram: AbsHistogram, method: str, percentile: float = DEFAULT_PERCENTILE) -> float:
    """The range of a tensor by one of ``METHODS``; 0 for a tensor that is always zero.

    ``minmax``: the largest magnitude. ``percentile``: the magnitude below which that share of the values lies. ``mse``: the range with the
    least squared error of int8 rounding and clipping. ``entropy``: the range with the least KL divergence between the
    histogram and its 128-level quantization (Migacz, "8-bit inference with TensorRT", GTC 2017), the bin of zero counted as its neighbour,
    as NVIDIA's pytorch-quantization does.

    Raises:
        UserError: unknown method, or a percentile outside (0, 100].
    """
    check_method(method, percentile)
    if histogram.amax == 0.0 or method == "minmax":
        return histogram.amax
    found = {"percentile": _percentile, "mse": _mse, "entropy": _entropy}[method](histogram, percentile)
    return min(found, histogram.amax)


def check_method(method: str, percentile: float = DEFAULT_PERCENTILE) -> None:
    """Refuse a method or percentile that does not exist, before any image is run.

    Raises:
        UserError: unknown method, or a percentile outside (0, 100].
    """
    if method not in METHODS:
        raise UserError(f"unknown calibration method {method!r}.{nearest(method, METHODS)}")
    if not 0 < percentile <= 100:
        raise UserError(f"percentile {percentile} is not above 0 and at most 100.", f"--percentile {DEFAULT_PERCENTILE}")


def _percentile(histogram: AbsHistogram, percentile: float) -> float:
    cumulated = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulated, cumulated[-1] * percentile / 100))
    return (min(index, BINS - 1) + 1) * histogram.width


def _mse(histogram: AbsHistogram, _: float) -> float:
    candidates = np.linspace(histogram.amax / 16, histogram.amax, 128)
    return float(min(candidates, key=lambda amax: _rounding_error(histogram, amax)))


def _rounding_error(histogram: AbsHistogram, amax: float) -> float:
    """Summed squared error of values at the bin centres after int8 rounding and clipping at ``amax``."""
    scale = amax / LEVELS
    centres = histogram.centres
    error = np.minimum(np.rint(centres / scale), LEVELS) * scale - centres
    return float((histogram.counts * error**2).sum())


def _entropy(histogram: AbsHistogram, _: float) -> float:
    counts = histogram.counts.astype(np.float64)
    # Zeros (half of the values behind a ReLU) are represented exactly by every range: as a spike they would draw it down to the first bins.
    counts[0] = counts[1]
    if not counts.any():
        return histogram.amax
    last = int(np.flatnonzero(counts)[-1]) + 1
    levels = LEVELS + 1
    ends = range(min(levels, last), last + 1, 4)
    best = min(ends, key=lambda end: _divergence(counts, end, levels))
    return best * histogram.width


def _divergence(counts: NDArray[np.float64], end: int, levels: int) -> float:
    """KL divergence of the clipped histogram from its quantization to ``levels``; clipped values count in the last bin."""
    reference = counts[:end].copy()
    reference[-1] += counts[end:].sum()
    group = np.minimum(np.arange(end) * levels // end, levels - 1)
    filled = counts[:end] > 0
    totals = np.bincount(group, counts[:end], levels)
    members = np.bincount(group, filled, levels)
    quantized = np.where(filled, (totals / np.maximum(members, 1))[group], 0.0)
    if not quantized.any():
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    both = (p > 0) & (q > 0)
    # Mass where the quantized histogram has none diverges without bound; a small q keeps it finite and dear.
    lost = (p > 0) & (q == 0)
    return float((p[both] * np.log(p[both] / q[both])).sum() + (p[lost] * np.log(p[lost] / 1e-9)).sum())
