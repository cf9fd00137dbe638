"""Ranges from histograms against the same ranges from the raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segc.calib.ranges import BINS, METHODS, AbsHistogram, amax_of
from segc.core.errors import UserError

FLOATS = st.floats(-(2.0**40), 2.0**40, width=32)
ARRAYS = st.lists(arrays(np.float32, st.integers(1, 40), elements=FLOATS), min_size=1, max_size=6)


def histogram_of(*values: np.ndarray) -> AbsHistogram:
    histogram = AbsHistogram()
    for value in values:
        histogram.update(value)
    return histogram


@settings(max_examples=60, deadline=None)
@given(ARRAYS, st.sampled_from([50.0, 90.0, 99.0, 99.99, 100.0]))
def test_percentile_is_numpys_within_a_bin(parts: list[np.ndarray], percentile: float) -> None:
    histogram = histogram_of(*parts)
    exact = np.percentile(np.abs(np.concatenate(parts)).astype(np.float64), percentile, method="inverted_cdf")
    assert abs(amax_of(histogram, "percentile", percentile) - exact) <= histogram.width * (1 + 1e-6)
    assert amax_of(histogram, "minmax") == np.abs(np.concatenate(parts)).max()


@settings(max_examples=60, deadline=None)
@given(ARRAYS, st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(parts: list[np.ndarray], random) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    first, second = histogram_of(*parts), histogram_of(*shuffled)
    assert first.width == second.width and first.amax == second.amax and np.array_equal(first.counts, second.counts)


@pytest.mark.parametrize("power", [0.25, 1.0, 2.0, 64.0])
def test_powers_of_two_lie_in_the_same_bin_in_any_order(power: float) -> None:
    first, second = (histogram_of(np.float32(a), np.float32(b)) for a, b in ((power, 4 * power), (4 * power, power)))
    assert np.array_equal(first.counts, second.counts)


def test_widening_is_exact() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(0, scale, 5000).astype(np.float32) for scale in (0.01, 1, 300)]
    histogram = histogram_of(*parts)
    values = np.abs(np.concatenate(parts))
    expected, _ = np.histogram(values, BINS, (0, histogram.width * BINS))
    assert np.array_equal(histogram.counts, expected)
    assert histogram.width * BINS / 2 <= values.max() < histogram.width * BINS


def test_mse_is_brute_force_on_the_values() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.laplace(0, 1, 40000), [40.0, -35.0]]).astype(np.float32)

    def error(amax: float) -> float:
        scale = amax / 127
        return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).sum())

    found = amax_of(histogram_of(values), "mse")
    best = min(error(amax) for amax in np.linspace(1, 40, 400))
    assert error(found) <= 1.05 * best < 0.9 * error(40.0)
    assert found < 40


def reference_entropy(counts: np.ndarray, width: float) -> float:
    """The textbook loop: every end, 128 groups, each group's mass spread over its non-empty bins; the bin of zero as its neighbour."""
    counts = np.concatenate([counts[1:2], counts[1:]])
    best, chosen = np.inf, 0
    last = int(np.flatnonzero(counts)[-1]) + 1
    for end in range(128, last + 1, 4):
        p = counts[:end].astype(float)
        p[-1] += counts[end:].sum()
        q = np.zeros(end)
        groups = [index * 128 // end for index in range(end)]
        for group in range(128):
            bins = [index for index in range(end) if groups[index] == group and counts[index] > 0]
            for index in bins:
                q[index] = sum(counts[i] for i in bins) / len(bins)
        p, q = p / p.sum(), q / q.sum()
        divergence = sum(a * np.log(a / (b if b > 0 else 1e-9)) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best - 1e-12:
            best, chosen = divergence, end
    return chosen * width


def test_entropy_is_the_textbook_loop() -> None:
    values = np.random.default_rng(2).normal(0, 1, 3000).astype(np.float32)
    histogram = histogram_of(values)
    histogram.counts[300:] = 0
    histogram.amax = 300 * histogram.width
    assert amax_of(histogram, "entropy") == pytest.approx(min(reference_entropy(histogram.counts, histogram.width), histogram.amax))


def test_zeros_do_not_draw_the_entropy_range_down() -> None:
    """Behind a ReLU half of the values are zero, and every range represents zero."""
    values = np.abs(np.random.default_rng(4).normal(0, 1, 100000)).astype(np.float32)
    alone = amax_of(histogram_of(values), "entropy")
    assert amax_of(histogram_of(values, np.zeros(300000)), "entropy") == alone > 3


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_an_outlier_is_clipped(method: str) -> None:
    values = np.append(np.random.default_rng(3).normal(0, 1, 200000), 60).astype(np.float32)
    assert 1 < amax_of(histogram_of(values), method) < 40


@settings(max_examples=40, deadline=None)
@given(ARRAYS, st.sampled_from(METHODS))
def test_no_range_is_above_the_largest_magnitude(parts: list[np.ndarray], method: str) -> None:
    histogram = histogram_of(*parts)
    assert 0 <= amax_of(histogram, method) <= histogram.amax
    assert (amax_of(histogram, method) == 0) == (histogram.amax == 0)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_and_the_smallest_numbers(method: str) -> None:
    assert amax_of(histogram_of(np.zeros((2, 3))), method) == 0
    tiny = float(np.float32(1e-45))
    assert amax_of(histogram_of(np.full(5, tiny)), method) == tiny
    assert histogram_of(np.full(5, tiny), np.ones(3)).counts.sum() == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        histogram_of(np.array([1.0, bad]))


def test_unknown_method_and_percentile() -> None:
    with pytest.raises(UserError, match="Did you mean 'entropy'"):
        amax_of(histogram_of(np.ones(3)), "entropie")
    for percentile in (0.0, -1.0, 100.5, float("nan")):
        with pytest.raises(UserError, match="percentile"):
            amax_of(histogram_of(np.ones(3)), "percentile", percentile)
