"""Each loss against its paper's formula, written in numpy pixel by pixel, and what holds for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segc.compress.distill import losses
from segc.compress.distill.terms import KINDS, Term

Array = np.ndarray[Any, np.dtype[np.float64]]
SHAPE = (2, 5, 6, 7)


def _maps(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _labels(seed: int = 0) -> Tensor:
    """Two regions, one of them unlabelled in a corner."""
    labels = torch.zeros(2, 12, 14, dtype=torch.long)
    labels[:, :, 9:] = 3
    labels[1, :2, :2] = 255
    return labels


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _kl(wanted: Array, found: Array) -> float:
    return float((wanted * np.log(wanted / found)).sum())


STUDENT, TEACHER = _maps(0), _maps(1)
S, T = STUDENT.numpy(), TEACHER.numpy()
PLACES = [(n, y, x) for n in range(SHAPE[0]) for y in range(SHAPE[2]) for x in range(SHAPE[3])]


def _kd_at(n: int, y: int, x: int, temperature: float) -> float:
    return _kl(_softmax(T[n, :, y, x] / temperature), _softmax(S[n, :, y, x] / temperature))


def test_kd_is_hintons() -> None:
    expected = 9 * np.mean([_kd_at(*place, 3.0) for place in PLACES])
    assert losses.kd(STUDENT, TEACHER, temperature=3.0).item() == pytest.approx(expected)


def test_cwd_is_shus() -> None:
    channels = [_kl(_softmax(T[n, c] / 3), _softmax(S[n, c] / 3)) for n in range(SHAPE[0]) for c in range(SHAPE[1])]
    assert losses.cwd(STUDENT, TEACHER, temperature=3.0).item() == pytest.approx(9 * np.sum(channels) / SHAPE[1] / SHAPE[0])


def test_dist_is_huangs() -> None:
    found, wanted = (np.stack([_softmax(m[n, :, y, x] / 2) for n, y, x in PLACES]) for m in (S, T))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, wanted.T, strict=True)])
    assert losses.dist(STUDENT, TEACHER, temperature=2.0, inter=1.0, intra=0.5).item() == pytest.approx(4 * (inter + 0.5 * intra))


def test_affinity_is_cirkds_inside_an_image() -> None:
    def rows(maps: Array) -> list[Array]:
        """The softmax over a pixel's similarities, pixel by pixel."""
        unit = [[maps[n, :, y, x] / np.linalg.norm(maps[n, :, y, x]) for m, y, x in PLACES if m == n] for n in range(SHAPE[0])]
        return [_softmax(np.array([pixel @ other for other in image]) / 0.2) for image in unit for pixel in image]

    expected = np.mean([_kl(wanted, found) for wanted, found in zip(rows(T), rows(S), strict=True)])
    assert losses.affinity(STUDENT, TEACHER, temperature=0.2).item() == pytest.approx(expected)


def test_affinity_averages_large_maps_down_and_takes_other_channels() -> None:
    large, other = _maps(2, (1, 3, 8, 8)), _maps(3, (1, 9, 4, 4))
    blocks = large.reshape(1, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(losses.affinity(large, other, grid=4), losses.affinity(blocks, other))


def test_feature_is_the_mean_square_or_one_minus_the_cosine() -> None:
    assert losses.feature(STUDENT, TEACHER).item() == pytest.approx(np.mean((S - T) ** 2))
    cosines = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in ((S[n, :, y, x], T[n, :, y, x]) for n, y, x in PLACES)]
    assert losses.feature(STUDENT, TEACHER, similarity="cosine").item() == pytest.approx(1 - np.mean(cosines))


def test_boundary_weighs_pixels_near_a_border_of_the_labels() -> None:
    labels, radius, strength = _labels(), 1, 4.0
    near = {(n, y, x) for n, y, x in np.ndindex(*labels.shape) if len(labels[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].unique()) > 1}
    weights = [1 + strength * any((n, 2 * y + i, 2 * x + j) in near for i in (0, 1) for j in (0, 1)) for n, y, x in PLACES]
    expected = 4 * np.average([_kd_at(*place, 2.0) for place in PLACES], weights=weights)
    found = losses.boundary(STUDENT, TEACHER, labels, temperature=2.0, radius=radius, strength=strength)
    assert found.item() == pytest.approx(expected)
    assert 1 < np.mean(weights) < 1 + strength


def test_boundary_without_strength_is_kd() -> None:
    plain = losses.boundary(STUDENT, TEACHER, _labels(), temperature=3.0, strength=0.0)
    torch.testing.assert_close(plain, losses.kd(STUDENT, TEACHER, temperature=3.0))


VARIANTS = [*KINDS, "feature,similarity=cosine"]


@pytest.mark.parametrize("text", VARIANTS)
def test_equal_maps_lose_nothing_and_other_ones_something(text: str) -> None:
    term = Term.parse(text)
    assert term.loss(STUDENT, STUDENT.clone(), _labels()).item() == pytest.approx(0, abs=1e-5)
    assert term.loss(STUDENT, TEACHER, _labels()).item() > 1e-2


@pytest.mark.parametrize("text", VARIANTS)
def test_the_gradient_goes_to_the_student_alone_and_down_it_is_less(text: str) -> None:
    term, student, teacher = Term.parse(text), STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    before = term.loss(student, teacher, _labels())
    before.backward()
    assert teacher.grad is None and student.grad is not None and student.grad.isfinite().all()
    step = 1e-3 / student.grad.norm()
    assert term.loss(student - step * student.grad, teacher, _labels()) < before


@pytest.mark.parametrize("text", VARIANTS)
@given(st.integers(0, 99), st.sampled_from([(1, 4, 3, 5), (3, 4, 6, 2)]))
def test_nothing_is_negative_and_a_batch_counts_as_its_images_do(text: str, seed: int, shape: tuple[int, ...]) -> None:
    """DIST correlates over all pixels of a batch, so that its images do not add up."""
    term, student, teacher = Term.parse(text), _maps(seed, shape), _maps(seed + 1, shape)
    labels = torch.ones(shape[0], 4, 4, dtype=torch.long)
    whole = term.loss(student, teacher, labels).item()
    assert whole >= -1e-6
    twice = [torch.cat([maps, maps]) for maps in (student, teacher, labels)]
    assert term.loss(*twice).item() == pytest.approx(whole, rel=1e-4)


def test_the_teachers_map_is_resized_and_half_precision_is_widened() -> None:
    student, teacher = _maps(4, (1, 5, 8, 8)).half(), _maps(5, (1, 5, 4, 4))
    up = torch.nn.functional.interpolate(teacher.float(), (8, 8), mode="bilinear", align_corners=False)
    found = Term.parse("kd,weight=2").loss(student, teacher, _labels())
    torch.testing.assert_close(found, 2 * losses.kd(student.float(), up))
