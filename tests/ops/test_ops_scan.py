"""The scan operators on the CPU, compiled and in plain torch, against the definition in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings

from segc.ops import reference, scan
from segc.ops.native.library import native_library
from tests.ops.scan_inputs import Case, assert_near, cases, gradients, in_double, inputs

FEW = settings(max_examples=15, deadline=None)
FORMS = ["compiled", "torch"]


@pytest.fixture(params=FORMS, scope="module")
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled kernels, and what runs without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGC_NATIVE_OPS", "1" if request.param == "compiled" else "0")
        native_library.cache_clear()
        yield request.param
    native_library.cache_clear()


@FEW
@given(case=cases())
def test_scan_and_gradients_are_the_definitions(form: str, case: Case) -> None:
    tensors = inputs(case)
    expected = gradients(reference.selective_scan, in_double(tensors), case.flags)
    assert_near(gradients(scan.selective_scan, tensors, case.flags), expected, case.dtype)


@FEW
@given(case=cases(cross=True))
def test_cross_scan_and_gradients_are_the_definitions(form: str, case: Case) -> None:
    tensors = inputs(case)
    expected = gradients(reference.cross_selective_scan, in_double(tensors), case.flags)
    assert_near(gradients(scan.cross_selective_scan, tensors, case.flags), expected, case.dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_long_sequence_of_one_channel(form: str, reverse: bool) -> None:
    case = Case(batch=1, groups=1, members=1, states=1, length=20_011, dtype=torch.float32, reverse=reverse)
    tensors = inputs(case)
    expected = reference.selective_scan(*in_double(tensors), *case.flags)  # type: ignore[arg-type]
    assert_near([scan.selective_scan(*tensors, *case.flags)], [expected], case.dtype)  # type: ignore[arg-type]


def test_gradcheck(form: str) -> None:
    for case in (Case(1, 2, 2, 2, 5), Case(1, 2, 1, 2, 5, softplus=False, reverse=True, weights=False)):
        leaves = [None if x is None else x.requires_grad_() for x in inputs(case)]
        assert torch.autograd.gradcheck(scan.selective_scan, (*leaves, *case.flags))
    case = Case(1, 4, 1, 2, 3, height=2)
    leaves = [None if x is None else x.requires_grad_() for x in inputs(case)]
    assert torch.autograd.gradcheck(scan.cross_selective_scan, (*leaves, *case.flags))


def test_three_axes_of_b_are_one_group(form: str) -> None:
    u, delta, A, B, C, D, bias = inputs(Case(2, 1, 3, 2, 30))
    flat = scan.selective_scan(u, delta, A, B[:, 0], C[:, 0], D, bias, True)  # type: ignore[arg-type, index]
    assert torch.equal(flat, scan.selective_scan(u, delta, A, B, C, D, bias, True))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reverse", [False, True])
def test_not_a_number_spreads_to_later_steps_of_its_channel_only(form: str, value: float, reverse: bool) -> None:
    for name in (0, 1, 3):  # u, delta, B
        tensors = inputs(Case(1, 2, 2, 2, 900, dtype=torch.float32, softplus=False, reverse=reverse))
        tensors[name].flatten(0, -2)[1, 400] = value  # type: ignore[union-attr]
        y = scan.selective_scan(*tensors, False, reverse)  # type: ignore[arg-type]
        expected = reference.selective_scan(*tensors, False, reverse)  # type: ignore[arg-type]
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_an_infinity_outlives_a_decay_that_underflows(form: str) -> None:
    """exp(A sum(delta)) over a chunk is zero here, and zero times infinity would be NaN: no single step's decay is."""
    ones = torch.ones(1, 1, 2000)
    u = ones.clone()
    u[..., 10] = torch.inf
    y = scan.selective_scan(u, ones, torch.tensor([[-16.0]]), ones, ones)
    assert y[..., :10].isfinite().all() and y[..., 10:].isposinf().all()


def test_a_growing_state_that_begins_at_zero_is_zero(form: str) -> None:
    """exp(A sum(delta)) over a chunk is infinite here; the state is zero until something enters it."""
    u, ones = torch.zeros(1, 1, 2000), torch.ones(1, 1, 2000)
    u[..., -1] = 1
    y = scan.selective_scan(u, ones, torch.tensor([[16.0]]), ones, ones)
    assert torch.equal(y, u)


def test_softplus_of_large_and_small_steps(form: str) -> None:
    delta = torch.tensor([-200.0, -90.0, -30.0, 0.0, 19.9, 20.1, 100.0, 3e4]).expand(1, 1, 8)
    ones = torch.ones(1, 1, 8)
    for dtype in (torch.float32, torch.float64):
        given = [delta.to(dtype), torch.full((1, 1), -1e-3, dtype=dtype), ones.to(dtype), ones.to(dtype)]
        y = scan.selective_scan(ones.to(dtype), *given, delta_softplus=True)
        expected = reference.selective_scan(ones.double(), *[x.double() for x in given], delta_softplus=True)
        torch.testing.assert_close(y.double(), expected, rtol=2e-6 if dtype == torch.float32 else 1e-14, atol=1e-38)


def test_half_precision_is_accumulated_in_float32(form: str) -> None:
    """65,000 ones added in float16 stop growing at 2,048."""
    length = 30_000
    ones = torch.ones(1, 1, length, dtype=torch.float16)
    y = scan.selective_scan(ones, ones, torch.zeros(1, 1), ones, ones)
    assert torch.equal(y, torch.arange(1, length + 1).view(1, 1, -1).half())
