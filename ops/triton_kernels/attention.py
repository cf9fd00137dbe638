"""Neighbourhood attention on a GPU: the launches of the Triton kernels, in order, and their results."""

from __future__ import annotations

from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_backward import backward
from segc.ops.triton_kernels.attention_forward import forward
from segc.ops.triton_kernels.launch import run

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> Tensor:
    """``segc.ops.attention.neighborhood_attention_2d`` of checked arguments, contiguous."""
    out, _, launches = forward(q, k, v, window, scale, rpb, with_lse=False)
    run(launches, q.device)
    return out


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, and log2 of the softmax's denominators, (batch, heads, height, width), float32 (float64 for float64 input)."""
    out, lse, launches = forward(q, k, v, window, scale, rpb, with_lse=True)
    assert lse is not None
    run(launches, q.device)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None, out: Tensor, lse: Tensor
) -> Gradients:
    """Gradients of q, k, v and rpb, each contiguous and of its own dtype; the last is empty where there is no rpb."""
    (dq, dk, dv, *partial), launches = backward(grad, q, k, v, window, scale, rpb, out, lse)
    run(launches, q.device)
    return dq, dk, dv, q.new_empty(0) if rpb is None else partial[0].sum(0).to(rpb.dtype)
