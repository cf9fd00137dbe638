"""Neighbourhood attention on the CPU, compiled and in plain torch, against the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings

from segc.ops import reference
from segc.ops.attention import neighborhood_attention_2d
from segc.ops.native.library import native_library
from segc.ops.native.scan import native_takes
from tests.ops.attention_inputs import TOLERANCE, Problem, answers, errors, in_double, problems

FEW = settings(max_examples=20, deadline=None)


@pytest.fixture(params=["compiled", "torch"], scope="module", autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """The compiled kernels, and what runs without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGC_NATIVE_OPS", "1" if request.param == "compiled" else "0")
        native_library.cache_clear()
        assert native_takes(torch.float32) == (request.param == "compiled")
        yield request.param
    native_library.cache_clear()


def check(problem: Problem) -> None:
    inputs = problem.inputs()
    expected = answers(reference.neighborhood_attention_2d, problem, in_double(inputs))
    actual = answers(neighborhood_attention_2d, problem, inputs)
    assert [tensor.dtype for tensor in actual[1:]] == [tensor.dtype for tensor in inputs]
    assert actual[0].is_contiguous() and actual[0].dtype == problem.dtype
    worst = max(errors(actual, expected))
    assert worst <= TOLERANCE[problem.dtype], f"{worst:.1e}"


@FEW
@given(problem=problems())
def test_attention_and_gradients_are_the_definitions(problem: Problem) -> None:
    check(problem)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(1, 1, 4, (3, 3), (3, 3)),  # one window
        Problem(1, 2, 5, (33, 15), (3, 15)),  # the window as wide as the map
        Problem(1, 1, 6, (9, 70), (9, 41)),  # wider than two vectors
        Problem(2, 2, 24, (16, 16), (7, 7), first=True),  # SegMAN-T stage 4
        Problem(1, 1, 3, (64, 20), (63, 3), bias=None),  # the largest, both ways
        Problem(1, 1, 3, (5, 90), (3, 63)),
        Problem(1, 1, 2, (4, 40), (3, 3), (1, 13)),  # groups of three and of four
    ],
)
def test_borders(problem: Problem) -> None:
    check(problem)


def test_any_strides() -> None:
    problem = Problem(1, 2, 6, (10, 21), (5, 7))
    inputs = problem.inputs()
    expected = answers(neighborhood_attention_2d, problem, inputs)
    spread = [tensor.repeat_interleave(2, -1)[..., ::2] for tensor in inputs]
    turned = [tensor.transpose(-1, -2).contiguous().transpose(-1, -2) for tensor in inputs]
    for other in (spread, turned):
        assert all(not tensor.is_contiguous() for tensor in other)
        assert max(errors(answers(neighborhood_attention_2d, problem, other), in_double(expected))) <= TOLERANCE[torch.float32]
    shared = inputs[0][:1, :1, :1].expand_as(inputs[0])
    same = neighborhood_attention_2d(shared, shared, shared, problem.kernel)
    torch.testing.assert_close(same, shared)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [1, 2])
def test_what_is_not_finite_reaches_who_sees_it_and_nobody_else(which: int, value: float) -> None:
    problem = Problem(1, 2, 17, (12, 37), (5, 7), (1, 2))
    inputs = problem.inputs()
    for position in ((0, 3, 5, 0, 2), (0, 11, 36, 1, 16), (0, 6, 20, 0, 0)):
        inputs[which][position] = value
    actual = neighborhood_attention_2d(*inputs[:3], problem.kernel, problem.dilation, None, inputs[3])
    expected = reference.neighborhood_attention_2d(*inputs[:3], problem.kernel, problem.dilation, None, inputs[3])
    assert 0 < int(expected.isfinite().logical_not().sum()) < expected.numel() / 2
    torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_reaches_the_gradients_it_reaches_by_definition(which: int) -> None:
    problem = Problem(1, 1, 5, (9, 40), (3, 5))
    inputs = problem.inputs()
    inputs[which][0, 4, 3] = math.nan
    expected = answers(reference.neighborhood_attention_2d, problem, inputs)
    assert all(0 < int(tensor.isnan().sum()) < tensor.numel() / 2 for tensor in expected[:3])
    for ours, theirs in zip(answers(neighborhood_attention_2d, problem, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    problem = Problem(1, 1, 8, (5, 18), (3, 3), scale=300.0)
    inputs = [tensor.double() for tensor in problem.inputs()]
    expected = answers(reference.neighborhood_attention_2d, problem, inputs)
    actual = answers(neighborhood_attention_2d, problem, [tensor.float() for tensor in inputs])
    assert all(tensor.isfinite().all() for tensor in actual)
    assert errors(actual[:1], expected[:1])[0] <= 1e-3  # logits of 2,000 in float32 are known to 1e-4
