"""The definition of neighbourhood attention against dense attention under a mask made from its words, and against natten where it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segc.ops.reference import neighborhood_attention_2d, window_indices
from tests.ops.attention_inputs import Problem, errors, in_double

PROBLEMS = [
    Problem(2, 2, 5, (7, 9), (3, 5), bias=torch.float64, dtype=torch.float64),
    Problem(1, 3, 4, (11, 8), (11, 3), bias=torch.float64, dtype=torch.float64),
    Problem(1, 1, 4, (10, 13), (3, 3), (3, 4), bias=torch.float64, dtype=torch.float64),
]


def window(query: int, length: int, kernel: int, dilation: int) -> list[int]:
    """The ``kernel`` positions nearest to the query among those whose index agrees with it modulo the dilation."""
    members = [key for key in range(length) if key % dilation == query % dilation]
    starts = range(len(members) - kernel + 1)
    return min((members[start : start + kernel] for start in starts), key=lambda keys: abs(keys[kernel // 2] - query))


def dense(problem: Problem, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
    """Every pair of positions on its own."""
    height, width = problem.size
    out = torch.empty_like(q)
    for y in range(height):
        for x in range(width):
            rows = window(y, height, problem.kernel[0], problem.dilation[0])
            columns = window(x, width, problem.kernel[1], problem.dilation[1])
            seen = [(r, c) for r in rows for c in columns]
            steps = [((r - y) // problem.dilation[0], (c - x) // problem.dilation[1]) for r, c in seen]
            bias = torch.stack([rpb[:, r + problem.kernel[0] - 1, c + problem.kernel[1] - 1] for r, c in steps], -1)
            keys, values = (torch.stack([tensor[:, r, c] for r, c in seen], -2) for tensor in (k, v))
            weights = (problem.dim**-0.5 * (q[:, y, x, :, None] * keys).sum(-1) + bias).softmax(-1)
            out[:, y, x] = (weights[..., None] * values).sum(-2)
    return out


@pytest.mark.parametrize("problem", PROBLEMS)
def test_attention_is_dense_attention_to_the_nearest(problem: Problem) -> None:
    q, k, v, rpb = problem.inputs()
    actual = neighborhood_attention_2d(q, k, v, problem.kernel, problem.dilation, None, rpb)
    torch.testing.assert_close(actual, dense(problem, q, k, v, rpb), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "kernel", "dilation"), [(5, 5, 1), (6, 5, 1), (20, 7, 1), (20, 3, 6), (23, 5, 4)])
def test_windows_are_the_nearest_positions(length: int, kernel: int, dilation: int) -> None:
    keys, _ = window_indices(length, kernel, dilation)
    assert keys.tolist() == [window(query, length, kernel, dilation) for query in range(length)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem", [Problem(2, 2, 32, (14, 19), (5, 7), (1, 2), bias=None), Problem(1, 1, 32, (13, 9), (13, 3), (1, 3), bias=None)]
)
def test_attention_is_nattens(problem: Problem) -> None:
    natten = pytest.importorskip("natten")
    q, k, v = (tensor.contiguous() for tensor in problem.inputs())
    theirs = natten.na2d(q, k, v, kernel_size=problem.kernel, dilation=problem.dilation)
    ours = neighborhood_attention_2d(*in_double([q, k, v]), problem.kernel, problem.dilation)
    assert errors([theirs], [ours])[0] <= 1e-5
