"""The intervals of a drop against scipy's bootstrap, against the truth of simulated sets, and where there is nothing to tell."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segc.validate.bootstrap import MEANS, METHODS, Bootstrap, Drops, Method, holm, paired_drops
from segc.validate.confusions import ClassCounts, Confusions
from segc.validate.metrics import summarize


def counts(stack: np.ndarray) -> ClassCounts:
    found = Confusions(stack.shape[-1])
    for matrix in stack:
        found.append(matrix)
    return found.counts()


def simulated(rng: np.random.Generator, images: int, classes: int, wrong: tuple[float, float] = (0.1, 0.14)) -> list[np.ndarray]:
    """Matrices of two artefacts on the same images, (images, K, K) each: images differ in how hard they are, and each artefact errs."""
    labels = rng.multinomial(2000, rng.dirichlet(np.ones(classes), images))
    hard = rng.gamma(4, 0.25, (images, 1))
    found = []
    for share in wrong:
        errors = rng.binomial(labels, np.minimum(share * hard * rng.gamma(8, 0.125, (images, classes)), 1.0))
        matrices = np.zeros((images, classes, classes), np.int64)
        each = np.arange(classes)
        matrices[:, each, each] = labels - errors
        matrices[:, each, (each + 1) % classes] += errors
        found.append(matrices)
    return found


def drop(reference: np.ndarray, target: np.ndarray, which: int, chosen: np.ndarray) -> float:
    """A drop of some images by ``summarize``: the plain form of what the bootstrap does in one product."""
    one, other = (summarize(stack[chosen].sum(0)) for stack in (reference, target))
    values = [[each.miou, each.macc, each.aacc, *each.iou] for each in (one, other)]
    return values[0][which] - values[1][which]


def intervals(drops: Drops) -> list:
    return [*(drops.means[name] for name in MEANS), *drops.classes]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", range(6))
def test_intervals_are_scipys(method: Method, which: int) -> None:
    """Over the very same draws, which scipy takes as the result of an earlier call."""
    reference, target = simulated(np.random.default_rng(which), 25, 3)
    options = Bootstrap(400, 0.9, seed=3, method=method)
    found = paired_drops(counts(reference), counts(target), options)
    assert found is not None
    chosen = np.random.default_rng(3).integers(0, 25, (400, 25))
    statistic = partial(drop, reference, target, which)
    drawn = np.array([statistic(rows) for rows in chosen])
    earlier = stats._resampling.BootstrapResult(stats._resampling.ConfidenceInterval(0, 0), drawn, 0.0)
    expected = stats.bootstrap(
        (np.arange(25),), statistic, n_resamples=0, vectorized=False, confidence_level=0.9, method=method, bootstrap_result=earlier
    ).confidence_interval
    interval = intervals(found)[which]
    assert interval.value == pytest.approx(statistic(np.arange(25)), abs=1e-9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_intervals_are_those_of_an_independent_scipy_run() -> None:
    reference, target = simulated(np.random.default_rng(1), 40, 3)
    found = paired_drops(counts(reference), counts(target), Bootstrap(4000, seed=1, method="bca"))
    assert found is not None
    own = stats.bootstrap(
        (np.arange(40),),
        partial(drop, reference, target, 0),
        n_resamples=2000,
        vectorized=False,
        method="BCa",
        rng=np.random.default_rng(9),
    )
    width = own.confidence_interval.high - own.confidence_interval.low
    assert found.means["mIoU"].low == pytest.approx(own.confidence_interval.low, abs=0.1 * width)
    assert found.means["mIoU"].high == pytest.approx(own.confidence_interval.high, abs=0.1 * width)


@pytest.mark.parametrize("method", METHODS)
def test_intervals_hold_the_truth_as_often_as_they_say(method: Method) -> None:
    truth = drop(*simulated(np.random.default_rng(0), 40_000, 3), 0, np.arange(40_000))
    rng, held = np.random.default_rng(1), 0
    for seed in range(200):
        found = paired_drops(*map(counts, simulated(rng, 200, 3)), Bootstrap(400, 0.9, seed, method))
        assert found is not None
        held += found.means["mIoU"].low <= truth <= found.means["mIoU"].high
    assert 0.85 <= held / 200 <= 0.95


def test_no_drop_is_seldom_called_one() -> None:
    """Two artefacts of equal skill: false alarms over whole class tables stay at the level, for all classes together."""
    rng, alarms = np.random.default_rng(2), 0
    for seed in range(150):
        found = paired_drops(*map(counts, simulated(rng, 200, 6, (0.1, 0.1))), Bootstrap(1000, 0.95, seed))
        assert found is not None
        alarms += any(each is not None and each.distinguishable for each in found.classes)
    assert alarms / 150 <= 0.1


def test_an_artefact_against_itself_lost_nothing() -> None:
    reference, _ = simulated(np.random.default_rng(0), 10, 4)
    found = paired_drops(counts(reference), counts(reference), Bootstrap(200))
    assert found is not None
    for each in intervals(found):
        assert (each.value, each.low, each.high, each.p, each.distinguishable) == (0, 0, 0, 1, False)


def test_a_clear_drop_is_distinguishable_and_the_order_of_images_counts() -> None:
    reference, target = simulated(np.random.default_rng(0), 80, 4, (0.05, 0.3))
    found = paired_drops(counts(reference), counts(target), Bootstrap(1000))
    assert found is not None and all(each.distinguishable and each.low > 0 for each in intervals(found))
    again = paired_drops(counts(reference), counts(target), Bootstrap(1000))
    assert again == found
    with pytest.raises(ValueError, match=r"\(80, 4\) against \(79, 4\)"):
        paired_drops(counts(reference), counts(target[1:]), Bootstrap(1000))


def test_classes_without_pixels_are_left_out_of_draws_and_of_the_table() -> None:
    """Class 2 is in one image of 12: draws without that image have no score of it. Class 3 is nowhere."""
    reference, target = (np.zeros((12, 4, 4), np.int64) for _ in range(2))
    reference[:, 0, 0] = reference[:, 1, 1] = target[:, 0, 0] = 100
    target[:, 1, 1], target[:, 1, 0] = 90, 10
    reference[5, 2, 2] = target[5, 2, 2] = 30
    found = paired_drops(counts(reference), counts(target), Bootstrap(2000))
    assert found is not None and found.classes[3] is None
    rare, common = found.classes[2], found.classes[1]
    assert rare is not None and common is not None
    assert common.draws == 2000 and rare.draws == pytest.approx(2000 * (1 - (11 / 12) ** 12), rel=0.05)
    expected = np.nanmean(summarize(reference.sum(0)).iou) - np.nanmean(summarize(target.sum(0)).iou)
    assert found.means["mIoU"].value == pytest.approx(expected)


def test_one_image_has_no_interval() -> None:
    reference, target = simulated(np.random.default_rng(0), 1, 3)
    assert paired_drops(counts(reference), counts(target), Bootstrap(200)) is None


def test_the_p_value_is_the_level_where_the_interval_ends_at_zero() -> None:
    reference, target = simulated(np.random.default_rng(4), 40, 3, (0.1, 0.11))
    both = (counts(reference), counts(target))
    found = paired_drops(*both, Bootstrap(5000))
    assert found is not None
    p = found.means["mIoU"].p
    assert 0.001 < p < 0.5
    at_zero = paired_drops(*both, Bootstrap(5000, 1 - p))
    assert at_zero is not None
    ends = at_zero.means["mIoU"]
    assert min(abs(ends.low), abs(ends.high)) < 0.01 * (ends.high - ends.low)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=100)
def test_holm_rejects_step_by_step(p: list[float]) -> None:
    """The definition: the smallest p against level / m, the next against level / (m - 1), until one is not below."""
    adjusted = holm(np.array(p))
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(np.argsort(p, kind="stable")):
            if not (len(p) - step) * p[index] < level:
                break
            rejected.add(int(index))
        assert rejected == set(np.flatnonzero(adjusted < level).tolist())


@pytest.mark.parametrize("wrong", [{"resamples": 10}, {"confidence": 1.0}, {"method": "normal"}])
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected resamples"):
        Bootstrap(**wrong)
