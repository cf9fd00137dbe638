"""Neighbourhood attention on a GPU: the launches of the Triton kernels, in order, and their results."""

from __future__ import annotations

import torch
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.triton_kernels.attention_backward import backward
from segc.ops.triton_kernels.attention_forward import forward
from segc.ops.triton_kernels.launch import Launch, run

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]

# batch, height, width, heads, head_dim, kernel, dilation, channels first: SegMAN-T's stages at 512, its odd head dimensions, and limits
EXAMPLES = {
    "segman_t1": (8, 128, 128, 1, 32, 11, 1, False),
    "segman_t3": (8, 32, 32, 4, 36, 9, 1, False),
    "segman_t4": (8, 16, 16, 8, 24, 7, 1, False),
    "segman_b2": (8, 64, 64, 8, 20, 9, 1, False),
    "channels_first": (8, 128, 128, 1, 32, 11, 1, True),
    "dilated": (1, 128, 128, 4, 64, 13, 4, False),
    "largest": (1, 126, 126, 2, 256, 63, 2, False),
}
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


def examples() -> dict[str, list[Launch]]:
    """Launches of every example and type, forward and backward with a bias."""
    sizes = {f"attention_{name}/{label}": (size, dtype) for name, size in EXAMPLES.items() for label, dtype in TYPES.items()}
    return {name: _example(*size, dtype) for name, (size, dtype) in sizes.items()}


def _example(
    batch: int, height: int, width: int, heads: int, head_dim: int, kernel: int, dilation: int, first: bool, dtype: torch.dtype
) -> list[Launch]:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def image() -> Tensor:
        return (
            empty(batch, heads, head_dim, height, width).permute(0, 3, 4, 1, 2) if first else empty(batch, height, width, heads, head_dim)
        )

    q, k, v, grad = (image() for _ in range(4))
    window, rpb = Window((kernel, kernel), (dilation, dilation)), empty(heads, 2 * kernel - 1, 2 * kernel - 1)
    out, lse, launches = forward(q, k, v, window, head_dim**-0.5, rpb, with_lse=True)
    assert lse is not None
    return launches + backward(grad, q, k, v, window, head_dim**-0.5, rpb, out, lse)[1]
