"""The definition of the scan against closed forms: a filter with constant coefficients, and the whole scan as one matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from segc.ops import reference
from tests.ops.scan_inputs import Case, inputs


@pytest.mark.parametrize("reverse", [False, True])
def test_constant_coefficients_are_a_recursive_filter(reverse: bool) -> None:
    """With delta, A, B and C constant, y is u filtered by delta B C / (1 - exp(delta A) z^-1)."""
    random = np.random.default_rng(0)
    u, step, a, b, c, d = random.standard_normal(200), 0.3, -0.7, 1.3, -0.4, 0.9
    sequence = u[::-1] if reverse else u
    filtered = lfilter([step * b * c], [1, -np.exp(step * a)], sequence)
    expected = (filtered[::-1] if reverse else filtered) + d * u
    constant = [torch.full(shape, value, dtype=torch.float64) for shape, value in (((1, 1, 200), step), ((1, 1), a), ((1, 1, 1, 200), b))]
    given = [torch.from_numpy(u).view(1, 1, -1), *constant, torch.full((1, 1, 1, 200), c, dtype=torch.float64)]
    y = reference.selective_scan(*given, D=torch.tensor([d], dtype=torch.float64), reverse=reverse)
    np.testing.assert_allclose(y[0, 0].numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reverse", [False, True])
def test_is_a_matrix_of_its_coefficients(reverse: bool) -> None:
    """y_t = sum over s <= t of C_t exp(A (S_t - S_s)) delta_s B_s u_s + D u_t, with S the running sum of the step sizes."""
    case = Case(2, 2, 2, 3, 17, reverse=reverse)
    u, delta, A, B, C, D, bias = (x.numpy() for x in inputs(case))  # type: ignore[union-attr]
    step = np.log1p(np.exp(delta + bias[:, None]))
    total = np.cumsum(step, -1) if not reverse else np.cumsum(step[..., ::-1], -1)[..., ::-1]
    B, C = (np.repeat(x, case.members, 1) for x in (B, C))
    earlier = np.tril(np.ones((case.length, case.length)))
    earlier = earlier.T if reverse else earlier
    decay = np.exp(np.where(earlier > 0, A[None, :, :, None, None] * (total[:, :, None, :, None] - total[:, :, None, None, :]), -np.inf))
    matrix = np.einsum("bdnt,bdnts,bdns->bdts", C, decay, B * step[:, :, None])
    expected = np.einsum("bdts,bds->bdt", matrix, u) + D[:, None] * u
    y = reference.selective_scan(*inputs(case), *case.flags)  # type: ignore[arg-type]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-11, atol=1e-12)


def test_cross_scan_follows_rows_columns_and_both_reversed() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert reference.cross_scan(image)[0, :, 0].int().tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@pytest.mark.parametrize(("height", "width"), [(3, 5), (1, 4), (4, 1)])
def test_cross_merge_is_the_transpose_of_cross_scan(height: int, width: int) -> None:
    """<cross_scan(x), y> = <x, cross_merge(y)>."""
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    y = torch.randn(2, 4, 3, height * width, dtype=torch.float64)
    left, right = (reference.cross_scan(x) * y).sum(), (x * reference.cross_merge(y, height, width)).sum()
    torch.testing.assert_close(left, right)


def test_cross_selective_scan_sums_four_scans_of_the_map() -> None:
    """Each direction by itself, its sequence written out with an index of positions."""
    case = Case(1, 4, 2, 2, 4, height=3)
    u, delta, A, B, C, D, bias = inputs(case)  # type: ignore[misc]
    positions = torch.arange(12).view(3, 4)
    orders = [positions.flatten(), positions.T.flatten(), positions.flatten().flip(0), positions.T.flatten().flip(0)]
    expected = torch.zeros(1, 2, 12, dtype=torch.float64)
    for k, order in enumerate(orders):
        rows = slice(2 * k, 2 * k + 2)
        maps = [u, delta[:, rows], B[:, k], C[:, k]]  # type: ignore[index]
        x, dt, b, c = (tensor.flatten(-2)[..., order] for tensor in maps)  # type: ignore[union-attr]
        y = reference.selective_scan(x, dt, A[rows], b, c, D[rows], bias[rows], True)  # type: ignore[index]
        expected[..., order] += y
    torch.testing.assert_close(reference.cross_selective_scan(*inputs(case), True).flatten(2), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_a_number_stays_in_its_channel(value: float) -> None:
    tensors = inputs(Case(1, 1, 3, 2, 20, softplus=False))
    tensors[0][0, 1, 7] = value  # type: ignore[index]
    finite = reference.selective_scan(*tensors).isfinite()  # type: ignore[arg-type]
    assert finite[0, [0, 2]].all() and finite[0, 1, :7].all() and not finite[0, 1, 7:].any()
