"""Neighbourhood attention as a torch operator: ``torch.compile`` and ``torch.export`` see one node, ``segc::neighborhood_attention_2d``."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segc.ops import attention_cuda, attention_torch
from segc.ops.checks import Window, check_attention
from segc.ops.native import attention as attention_native
from segc.ops.native.scan import native_takes


def neighborhood_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    scale: float | None = None,
    rpb: Tensor | None = None,
) -> Tensor:
    """Attend from every position of a map to the window around it (arXiv 2204.07143, dilated: 2209.15001), with NATTEN's semantics.

    At a border the window is shifted inside, never padded; a dilated window stays on the positions whose index agrees with the
    query's modulo the dilation. ``softmax(scale q . k + rpb) v`` over the window, accumulated in float32 (float64 for float64 input).

    Args:
        q, k, v: (batch, height, width, heads, head_dim); float16, bfloat16, float32 or float64. Any strides.
        kernel_size: of the window, one odd number from 3 to 63 or one for each of (rows, columns).
        dilation: at least 1, one or two numbers; kernel_size x dilation must not exceed the map.
        scale: of the logits; None takes ``head_dim ** -0.5``.
        rpb: (heads, 2 kernel_rows - 1, 2 kernel_columns - 1), as q or float32: relative position bias, added to the scaled logit of a key
            that lies (key - query + kernel - 1) rows and columns from the query, counted in dilated steps.

    Returns:
        (batch, height, width, heads, head_dim), as q.

    Raises:
        UserError: an argument of another shape, dtype or value.
    """
    window = check_attention(q, k, v, kernel_size, dilation, rpb)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    operator = attention_cuda.training_attention if attention_cuda.wants_gradient(q, k, v, rpb) else _neighborhood_attention_2d
    return operator(q, k, v, window.kernel_size, window.dilation, scale, rpb)


@torch.library.custom_op("segc::neighborhood_attention_2d", mutates_args=())
def _neighborhood_attention_2d(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Tensor | None
) -> Tensor:
    return _code(q).attention(q, k, v, _window(kernel_size, dilation), scale, rpb)


@_neighborhood_attention_2d.register_fake
def _(q, k, v, kernel_size, dilation, scale, rpb):  # type: ignore[no-untyped-def]
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("segc::neighborhood_attention_2d_backward", mutates_args=())
def _neighborhood_attention_2d_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    rpb: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and rpb, each contiguous and of its own dtype; the last is empty where there is no rpb."""
    return _code(q).attention_backward(grad, q, k, v, _window(kernel_size, dilation), scale, rpb)


@_neighborhood_attention_2d_backward.register_fake
def _(grad, q, k, v, kernel_size, dilation, scale, rpb):  # type: ignore[no-untyped-def]
    made = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v)]
    return (*made, q.new_empty(0) if rpb is None else torch.empty_like(rpb, memory_format=torch.contiguous_format))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, kernel_size, dilation, scale, rpb = inputs
    ctx.save_for_backward(q, k, v, rpb)
    ctx.window, ctx.scale = (kernel_size, dilation), scale


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, rpb = ctx.saved_tensors
    dq, dk, dv, drpb = _neighborhood_attention_2d_backward(grad, q, k, v, *ctx.window, ctx.scale, rpb)
    return dq, dk, dv, None, None, None, None if rpb is None else drpb


_neighborhood_attention_2d.register_kernel("cuda")(attention_cuda.attention)
_neighborhood_attention_2d_backward.register_kernel("cuda")(attention_cuda.attention_backward)
_neighborhood_attention_2d.register_autograd(_differentiate, setup_context=_save)


def _window(kernel_size: Sequence[int], dilation: Sequence[int]) -> Window:
    return Window((kernel_size[0], kernel_size[1]), (dilation[0], dilation[1]))


def _code(q: Tensor) -> ModuleType:
    """The compiled kernels where they are for this tensor, else plain torch."""
    return attention_native if q.device.type == "cpu" and native_takes(q.dtype) else attention_torch
