"""Neighbourhood attention on a GPU: the launches of the Triton kernels, in order, and their results."""

from __future__ import annotations

from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_backward import backward
from segc.ops.triton_kernels.attention_forward import forward
from segc.ops.triton_kernels.launch import run

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
SMALLEST_SCALE = 1e-30


def attention(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> Tensor:
    """``segc.ops.attention.neighborhood_attention_2d`` of checked arguments, contiguous."""
    q, scale = _positive(q, scale)
    out, _, launches = forward(q, k, v, window, scale, rpb, with_lse=False)
    run(launches, q.device)
    return out


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, and log2 of the softmax's denominators, (batch, heads, height, width), float32 (float64 for float64 input)."""
    q, scale = _positive(q, scale)
    out, lse, launches = forward(q, k, v, window, scale, rpb, with_lse=True)
    assert lse is not None
    run(launches, q.device)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None, out: Tensor, lse: Tensor
) -> Gradients:
    """Gradients of q, k, v and rpb, each contiguous and of its own dtype; the last is empty where there is no rpb."""
    q, magnitude = _positive(q, scale)
    (dq, dk, dv, *partial), launches = backward(grad, q, k, v, window, magnitude, rpb, out, lse)
    run(launches, q.device)
    return dq if scale >= 0 else -dq, dk, dv, q.new_empty(0) if rpb is None else partial[0].sum(0).to(rpb.dtype)


def _positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Queries and a positive scale that give the same logits; of a scale of 0, one too small to matter."""
    return (q, scale) if scale > 0 else (-q, -scale or SMALLEST_SCALE)
