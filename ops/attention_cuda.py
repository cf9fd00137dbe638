"""Neighbourhood attention of CUDA tensors, as operators: the two of ``segc.ops.attention``, and a pair for training that keeps the softmax.

The operator that a graph shows returns the output alone, so that its backward pass must attend once more for the denominators of the
softmax. Where a gradient is wanted on a GPU, ``training_attention`` saves that.

The kernels multiply tiles of queries and keys whose windows overlap, with weights of 0 outside a window: a NaN or infinity in k or v also
reaches queries of the same tile that do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segc.ops import gpu
from segc.ops.checks import Window
from segc.ops.reference import accumulation_dtype

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def attention(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Tensor | None
) -> Tensor:
    """``segc::neighborhood_attention_2d`` on a GPU."""
    return _kernels().attention(q, k, v, _window(kernel_size, dilation), scale, rpb)


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    rpb: Tensor | None,
) -> Gradients:
    """``segc::neighborhood_attention_2d_backward`` on a GPU."""
    window = _window(kernel_size, dilation)
    out, lse = _kernels().attention_with_lse(q, k, v, window, scale, rpb)
    return _kernels().attention_backward(grad, q, k, v, window, scale, rpb, out, lse)


def wants_gradient(q: Tensor, *others: Tensor | None) -> bool:
    """Whether this call runs on a GPU and a gradient may flow back through it; an exported graph shows the plain operator all the same."""
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
    tensors = [q, *(tensor for tensor in others if tensor is not None)]
    return q.is_cuda and not exporting and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def training_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Tensor | None
) -> Tensor:
    """``segc::neighborhood_attention_2d`` of tensors on a GPU that need a gradient."""
    return _attention_with_lse(q, k, v, kernel_size, dilation, scale, rpb)[0]


@torch.library.custom_op("segc::neighborhood_attention_2d_with_lse", mutates_args=())
def _attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _kernels().attention_with_lse(q, k, v, _window(kernel_size, dilation), scale, rpb)


@_attention_with_lse.register_fake
def _(q, k, v, kernel_size, dilation, scale, rpb):  # type: ignore[no-untyped-def]
    batch, height, width, heads, _ = q.shape
    lse = q.new_empty((batch, heads, height, width), dtype=accumulation_dtype(q.dtype))
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("segc::neighborhood_attention_2d_with_lse_backward", mutates_args=())
def _attention_with_lse_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    rpb: Tensor | None,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _kernels().attention_backward(grad, q, k, v, _window(kernel_size, dilation), scale, rpb, out, lse)


@_attention_with_lse_backward.register_fake
def _(grad, q, k, v, kernel_size, dilation, scale, rpb, out, lse):  # type: ignore[no-untyped-def]
    made = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v)]
    return (*made, q.new_empty(0) if rpb is None else torch.empty_like(rpb, memory_format=torch.contiguous_format))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, kernel_size, dilation, scale, rpb = inputs
    ctx.save_for_backward(q, k, v, rpb, *output)
    ctx.window, ctx.scale = (kernel_size, dilation), scale
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    q, k, v, rpb, out, lse = ctx.saved_tensors
    dq, dk, dv, drpb = _attention_with_lse_backward(grad, q, k, v, *ctx.window, ctx.scale, rpb, out, lse)
    return dq, dk, dv, None, None, None, None if rpb is None else drpb


_attention_with_lse.register_autograd(_differentiate, setup_context=_save)


def _window(kernel_size: Sequence[int], dilation: Sequence[int]) -> Window:
    return Window((kernel_size[0], kernel_size[1]), (dilation[0], dilation[1]))


def _kernels() -> Any:
    return gpu.kernels("attention", "neighborhood_attention_2d")
