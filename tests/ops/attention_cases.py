# mypy: disallow-untyped-defs=False
"""Problems of neighbourhood attention, and what runs in the process that interprets Triton kernels to solve them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from segc.ops import attention_cuda
from segc.ops.checks import Window
from segc.ops.reference import neighborhood_attention_2d
from segc.ops.triton_kernels import attention
from segc.ops.triton_kernels.attention_bias import _rows_at
from segc.ops.triton_kernels.attention_tiles import first_query, last_query

Arrays = list[NDArray[np.float64]]
LEAST = 1e-6  # below it a number counts as 0
# Largest difference from the reference, as a share of its largest number: some roundings of each type.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Case:
    """A problem: (batch, height, width, heads, head_dim), window, types, and whether the map lies channels first."""

    shape: tuple[int, int, int, int, int]
    kernel: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    dtype: torch.dtype = torch.float32
    bias: torch.dtype | None = torch.float32
    first: bool = False
    scale: float = 0.3

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.dilation)

    def tensors(self, device: str = "cpu") -> tuple[list[Tensor], Tensor | None, Tensor]:
        """q, k, v; the bias; the gradient of the output."""
        source = torch.Generator().manual_seed(0)

        def image() -> Tensor:
            batch, height, width, heads, depth = self.shape
            if self.first:
                return torch.randn(batch, heads, depth, height, width, generator=source).to(device, self.dtype).permute(0, 3, 4, 1, 2)
            return torch.randn(self.shape, generator=source).to(device, self.dtype)

        table = (self.shape[3], 2 * self.kernel[0] - 1, 2 * self.kernel[1] - 1)
        bias = None if self.bias is None else torch.randn(table, generator=source).to(device, self.bias)
        return [image() for _ in range(3)], bias, image()


def reference(case: Case, device: str = "cpu") -> Arrays:
    """Output, dq, dk, dv and, with a bias, its gradient, in float64, of the numbers that the type holds."""
    images, bias, grad = case.tensors(device)
    inputs = [tensor.double().requires_grad_() for tensor in (*images, *([] if bias is None else [bias]))]
    out = neighborhood_attention_2d(*inputs[:3], case.kernel, case.dilation, case.scale, None if bias is None else inputs[3])
    return arrays([out, *torch.autograd.grad(out, inputs, grad.double())])


def arrays(tensors: list[Tensor]) -> Arrays:
    """The numbers of tensors; of those that hold any."""
    return [tensor.detach().double().cpu().numpy() for tensor in tensors if tensor.numel()]


def worst(found: Arrays, wanted: Arrays) -> dict[str, float]:
    """Largest difference as a share of the largest number wanted, by name."""
    names = ("out", "dq", "dk", "dv", "drpb")[: len(wanted)]
    return {name: float(abs(a - b).max() / max(abs(b).max(), LEAST)) for name, a, b in zip(names, found, wanted, strict=True)}


def solve(case: Case) -> Arrays:
    """What ``reference`` returns, by the kernels."""
    _widen_bfloat16()
    (q, k, v), bias, grad = case.tensors()
    out, lse = attention.attention_with_lse(q, k, v, case.window, case.scale, bias)
    return arrays([out, *attention.attention_backward(grad, q, k, v, case.window, case.scale, bias, out, lse)])


def differentiate(case: Case) -> tuple[Arrays, Arrays]:
    """What ``reference`` returns, by autograd through the operator for training; the gradients by the operator that attends again."""
    images, bias, grad = case.tensors()
    assert bias is not None
    inputs = [tensor.requires_grad_() for tensor in (*images, bias)]
    out = attention_cuda.training_attention(*inputs[:3], case.kernel, case.dilation, case.scale, bias)
    q, k, v = (tensor.detach() for tensor in images)
    again = attention_cuda.attention_backward(grad, q, k, v, case.kernel, case.dilation, case.scale, bias.detach())
    return arrays([out, *torch.autograd.grad(out, inputs, grad)]), arrays(list(again))


@triton.jit
def _probe(first, last, begin, end, size, KERNEL: tl.constexpr, LANES: tl.constexpr):
    lane = tl.arange(0, LANES)
    tl.store(first + lane, first_query(lane, KERNEL), mask=lane < size)
    tl.store(last + lane, last_query(lane, size, KERNEL), mask=lane < size)
    from_query, to_query = _rows_at(lane - (KERNEL - 1), size, KERNEL)
    tl.store(begin + lane, from_query, mask=lane < 2 * KERNEL - 1)
    tl.store(end + lane, to_query, mask=lane < 2 * KERNEL - 1)


def ranges(size: int, kernel: int) -> list[list[int]]:
    """First and last query of each key of an axis; first query, and one past the last, that sees a key at each distance."""
    found = [torch.full((length,), -99, dtype=torch.int32) for length in (size, size, 2 * kernel - 1, 2 * kernel - 1)]
    _probe[(1,)](*found, size, KERNEL=kernel, LANES=64)
    return [numbers.tolist() for numbers in found]


def _widen_bfloat16() -> None:
    """Let the interpreter multiply bfloat16 matrices as numbers: it holds them as the integers of their bits, and multiplies those."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    dot = InterpreterBuilder.create_dot
    if dot.__name__ == "create_dot":
        InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
