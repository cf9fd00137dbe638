"""Problems of neighbourhood attention drawn by hypothesis, and how near to the definition in float64 an answer has to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

# Largest difference as a share of the definition's largest number.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
Attend = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem:
    """A map and a window; ``first`` has the channels before the map, all of q, k and v in one tensor, as a convolution gives them."""

    batch: int
    heads: int
    dim: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    dtype: torch.dtype = torch.float32
    bias: torch.dtype | None = torch.float32
    first: bool = False
    scale: float | None = None

    def inputs(self) -> list[Tensor]:
        """q, k, v, and rpb where there is one (never zero: zero says nothing of its indices)."""
        source = torch.Generator().manual_seed(1)
        height, width = self.size
        if self.first:
            all_three = torch.randn(self.batch, 3, self.heads, self.dim, height, width, generator=source).permute(1, 0, 4, 5, 2, 3)
        else:
            all_three = torch.randn(self.batch, height, width, 3, self.heads, self.dim, generator=source).permute(3, 0, 1, 2, 4, 5)
        inputs = list(all_three.to(self.dtype).unbind(0))
        if self.bias is not None:
            table = torch.randn(self.heads, 2 * self.kernel[0] - 1, 2 * self.kernel[1] - 1, generator=source)
            inputs.append(table.to(self.bias if self.dtype != torch.float64 else self.dtype))
        return inputs


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Maps from the size of the window on, of one axis's choosing: kernel, dilation, groups of unequal length."""
    kernel, dilation, size = zip(*(draw(_axis()) for _ in range(2)), strict=True)
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    return Problem(
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        dim=draw(st.sampled_from([1, 3, 7, 16, 20, 36])),
        size=size,
        kernel=kernel,
        dilation=dilation,
        dtype=dtype,
        bias=draw(st.sampled_from([None, dtype, torch.float32])),
        first=draw(st.booleans()),
        scale=draw(st.sampled_from([None, 0.4, -0.7])),
    )


@st.composite
def _axis(draw: st.DrawFn) -> tuple[int, int, int]:
    kernel = draw(st.sampled_from([3, 5, 7, 9, 11]))
    dilation = draw(st.integers(1, 3))
    return kernel, dilation, kernel * dilation + draw(st.integers(0, 22))


def answers(attend: Attend, problem: Problem, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of q, k, v and rpb for a random gradient of the output."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    bias = inputs[3] if len(inputs) > 3 else None
    out = attend(*inputs[:3], problem.kernel, problem.dilation, problem.scale, bias)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(problem.dtype).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def in_double(inputs: list[Tensor]) -> list[Tensor]:
    """The same numbers in float64."""
    return [tensor.double() for tensor in inputs]


def errors(actual: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest difference of each pair, as a share of the largest number expected."""
    return [float((a.double() - e).abs().max() / e.abs().max()) for a, e in zip(actual, expected, strict=True)]
