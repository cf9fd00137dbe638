"""Selective scan as a torch operator: ``torch.compile`` and ``torch.export`` see one node, ``segc::selective_scan``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segc.ops import scan_cuda, scan_torch
from segc.ops.checks import check_cross_scan, check_scan
from segc.ops.native.scan import NativeScan, native_takes


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> Tensor:
    """Scan sequences with an input-dependent linear recurrence (S6 of Mamba, arXiv 2312.00752; grouped as in VMamba, 2401.10166).

    ``h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t``, ``y_t = C_t h_t + D u_t``, from ``h = 0``; accumulated in float32 (float64 for
    float64 input). A NaN or an infinity spreads as in that recurrence: to later steps of its own channel only. Differentiable once;
    ``torch.autocast`` casts nothing here.

    Args:
        u: (batch, channels, length); float16, bfloat16, float32 or float64.
        delta: (batch, channels, length), as u: the step size before bias and softplus.
        A: (channels, d_state); float32 (float64 for float64 input). Negative for a state that decays.
        B, C: (batch, groups, d_state, length) or (batch, d_state, length), as u; channel d reads group ``d // (channels / groups)``.
        D: (channels,), as A; the skip connection.
        delta_bias: (channels,), as A; added to delta.
        delta_softplus: replace delta by ``log(1 + exp(delta))`` after the bias.
        reverse: run from the last step to the first.

    Returns:
        (batch, channels, length), as u.

    Raises:
        UserError: an argument of another shape or dtype.
    """
    check_scan(u, delta, A, B, C, D, delta_bias)
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    return _selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse)


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Scan a map along rows, columns and both reversed, and sum the four results: cross scan, selective scan and cross merge in one.

    Everything is given and returned in row-major map order, so that no permutation is ever stored. Equal to
    ``cross_merge(selective_scan(cross_scan(u), ...))`` with four groups.

    Args:
        u: (batch, channels, height, width); float16, bfloat16, float32 or float64.
        delta: (batch, 4 * channels, height, width), as u; the channels of direction 0 (rows) first, then 1 (columns), 2 (rows
            reversed), 3 (columns reversed).
        A: (4 * channels, d_state); float32 (float64 for float64 input).
        B, C: (batch, 4, d_state, height, width), as u.
        D, delta_bias: (4 * channels,), as A.
        delta_softplus: as in ``selective_scan``.

    Returns:
        (batch, channels, height, width), as u.

    Raises:
        UserError: an argument of another shape or dtype.
    """
    check_cross_scan(u, delta, A, B, C, D, delta_bias)
    return _cross_selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


@torch.library.custom_op("segc::selective_scan", mutates_args=())
def _selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    return scan_torch.selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse)


@torch.library.custom_op("segc::selective_scan_backward", mutates_args=())
def _selective_scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D and delta_bias, each in its input's dtype; the last two are empty where the input is absent."""
    return scan_torch.selective_scan_backward(grad, u, delta, A, B, C, D, delta_bias, delta_softplus, reverse)


@torch.library.custom_op("segc::cross_selective_scan", mutates_args=())
def _cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    return scan_torch.cross_selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


@torch.library.custom_op("segc::cross_selective_scan_backward", mutates_args=())
def _cross_selective_scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``_selective_scan_backward``, in map order."""
    return scan_torch.cross_selective_scan_backward(grad, u, delta, A, B, C, D, delta_bias, delta_softplus)


@_selective_scan.register_kernel("cpu")
def _(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse):  # type: ignore[no-untyped-def]
    if native_takes(u.dtype):
        return NativeScan(u, delta, A, B, C, D, delta_bias, cross=False).forward(delta_softplus, reverse)
    return scan_torch.selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse)


@_selective_scan_backward.register_kernel("cpu")
def _(grad, u, delta, A, B, C, D, delta_bias, delta_softplus, reverse):  # type: ignore[no-untyped-def]
    if native_takes(u.dtype):
        return NativeScan(u, delta, A, B, C, D, delta_bias, cross=False).backward(grad, delta_softplus, reverse)
    return scan_torch.selective_scan_backward(grad, u, delta, A, B, C, D, delta_bias, delta_softplus, reverse)


@_cross_selective_scan.register_kernel("cpu")
def _(u, delta, A, B, C, D, delta_bias, delta_softplus):  # type: ignore[no-untyped-def]
    if native_takes(u.dtype):
        return NativeScan(u, delta, A, B, C, D, delta_bias, cross=True).forward(delta_softplus, False)
    return scan_torch.cross_selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


@_cross_selective_scan_backward.register_kernel("cpu")
def _(grad, u, delta, A, B, C, D, delta_bias, delta_softplus):  # type: ignore[no-untyped-def]
    if native_takes(u.dtype):
        return NativeScan(u, delta, A, B, C, D, delta_bias, cross=True).backward(grad, delta_softplus, False)
    return scan_torch.cross_selective_scan_backward(grad, u, delta, A, B, C, D, delta_bias, delta_softplus)


@_selective_scan.register_fake
@_cross_selective_scan.register_fake
def _fake(u: Tensor, *inputs: object) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@_selective_scan_backward.register_fake
@_cross_selective_scan_backward.register_fake
def _fake_backward(
    grad: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None, *flags: bool
) -> tuple[Tensor, ...]:
    inputs = (u, delta, A, B, C, D, delta_bias)
    return tuple(A.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.flags = inputs[7:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _gradients(_selective_scan_backward, ctx, grad)


def _cross_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _gradients(_cross_selective_scan_backward, ctx, grad)


def _gradients(operator: Any, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    inputs = ctx.saved_tensors
    gradients = operator(grad, *inputs, *ctx.flags)
    return *(None if x is None else gradient for x, gradient in zip(inputs, gradients, strict=True)), *(None for _ in ctx.flags)


_selective_scan.register_autograd(_backward, setup_context=_save)
_cross_selective_scan.register_autograd(_cross_backward, setup_context=_save)

_selective_scan.register_kernel("cuda")(scan_cuda.selective_scan)
_selective_scan_backward.register_kernel("cuda")(scan_cuda.selective_scan_backward)
_cross_selective_scan.register_kernel("cuda")(scan_cuda.cross_selective_scan)
_cross_selective_scan_backward.register_kernel("cuda")(scan_cuda.cross_selective_scan_backward)
