"""What the operators accept, checked once for every face: a wrong argument is named with its shape and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segc.core.errors import UserError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DIRECTIONS = 4
MIN_KERNEL, MAX_KERNEL = 3, 63


@dataclass(frozen=True)
class Window:
    """Kernel size and dilation of a neighbourhood, each (rows, columns)."""

    kernel_size: tuple[int, int]
    dilation: tuple[int, int]


def check_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None) -> None:
    """Refuse what ``selective_scan`` does not take; shapes as in its docstring.

    Raises:
        UserError: names the argument, its shape or dtype, and what was expected.
    """
    _rank("u", u, "(batch, channels, length)", 3)
    batch, channels, length = u.shape
    _shape("delta", delta, (batch, channels, length), "u")
    _scan_weights(A, D, delta_bias, channels, u)
    states = A.shape[1]
    for name, tensor in (("B", B), ("C", C)):
        if tensor.dim() not in (3, 4):
            raise UserError(f"{name} has shape {_text(tensor)}; expected (batch, groups, d_state, length) or (batch, d_state, length).")
        groups = tensor.shape[1] if tensor.dim() == 4 else 1
        _divides(name, tensor, groups, channels)
        wanted = (batch, groups, states, length) if tensor.dim() == 4 else (batch, states, length)
        _shape(name, tensor, wanted, "u and A")
    _shape("C", C, tuple(B.shape), "B")
    _same_dtype(u=u, delta=delta, B=B, C=C)


def check_cross_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None) -> None:
    """Refuse what ``cross_selective_scan`` does not take; shapes as in its docstring.

    Raises:
        UserError: names the argument, its shape or dtype, and what was expected.
    """
    _rank("u", u, "(batch, channels, height, width)", 4)
    batch, channels, height, width = u.shape
    _shape("delta", delta, (batch, DIRECTIONS * channels, height, width), f"u and {DIRECTIONS} directions")
    _scan_weights(A, D, delta_bias, DIRECTIONS * channels, u)
    for name, tensor in (("B", B), ("C", C)):
        _shape(name, tensor, (batch, DIRECTIONS, A.shape[1], height, width), f"u, A and {DIRECTIONS} directions")
    _same_dtype(u=u, delta=delta, B=B, C=C)


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    rpb: Tensor | None,
) -> Window:
    """Refuse what ``neighborhood_attention_2d`` does not take; shapes as in its docstring.

    Returns:
        The kernel size and dilation of both axes.

    Raises:
        UserError: names the argument, its shape, dtype or value, and what was expected.
    """
    _rank("q", q, "(batch, height, width, heads, head_dim)", 5)
    for name, tensor in (("k", k), ("v", v)):
        if tensor.dim() == 5 and tensor.shape[3] != q.shape[3]:
            raise UserError(f"{name} has {tensor.shape[3]} heads, q has {q.shape[3]}; expected the same number.")
        _shape(name, tensor, tuple(q.shape), "q")
    _same_dtype(q=q, k=k, v=v)
    window = Window(_pair("kernel_size", kernel_size), _pair("dilation", dilation))
    for axis, size, kernel, step in zip(("height", "width"), q.shape[1:3], window.kernel_size, window.dilation, strict=True):
        _check_axis(axis, size, kernel, step)
    if rpb is not None:
        _check_bias(rpb, q, window.kernel_size)
    return window


def _check_axis(axis: str, size: int, kernel: int, dilation: int) -> None:
    if kernel % 2 == 0 or not MIN_KERNEL <= kernel <= MAX_KERNEL:
        raise UserError(f"kernel_size over the {axis} is {kernel}; expected an odd number from {MIN_KERNEL} to {MAX_KERNEL}.")
    if dilation < 1:
        raise UserError(f"dilation over the {axis} is {dilation}; expected at least 1.")
    if kernel * dilation > size:
        raise UserError(
            f"kernel_size {kernel} with dilation {dilation} spans {kernel * dilation}, but q's {axis} is {size}; "
            "expected kernel_size x dilation no larger than the map."
        )


def _check_bias(rpb: Tensor, q: Tensor, kernel: tuple[int, int]) -> None:
    _shape("rpb", rpb, (q.shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1), "(heads, 2 kernel - 1, 2 kernel - 1)")
    if rpb.dtype not in (q.dtype, torch.float32):
        raise UserError(f"rpb is {_name(rpb)}; expected {_name(q)} as q, or float32.")
    if rpb.device != q.device:
        raise UserError(f"rpb is on {rpb.device}, q on {q.device}; expected one device.")


def _scan_weights(A: Tensor, D: Tensor | None, delta_bias: Tensor | None, channels: int, u: Tensor) -> None:
    """A, D and delta_bias stay in float32 under half precision: exp(delta A) over thousands of steps needs it."""
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise UserError(f"A has shape {_text(A)}; expected ({channels}, d_state) with d_state at least 1.")
    wanted = torch.float64 if u.dtype == torch.float64 else torch.float32
    for name, tensor in (("A", A), ("D", D), ("delta_bias", delta_bias)):
        if tensor is None:
            continue
        if name != "A":
            _shape(name, tensor, (channels,), "A")
        if tensor.dtype != wanted:
            raise UserError(f"{name} is {_name(tensor)} while u is {_name(u)}; expected {str(wanted).removeprefix('torch.')}.")
        if tensor.device != u.device:
            raise UserError(f"{name} is on {tensor.device}, u on {u.device}; expected one device.")


def _rank(name: str, tensor: Tensor, layout: str, rank: int) -> None:
    if tensor.dim() != rank:
        raise UserError(f"{name} has shape {_text(tensor)}; expected {layout}.")
    if any(size == 0 for size in tensor.shape):
        raise UserError(f"{name} has shape {_text(tensor)}; expected at least 1 along every axis of {layout}.")


def _shape(name: str, tensor: Tensor, wanted: tuple[int, ...], source: str) -> None:
    if tuple(tensor.shape) != wanted:
        raise UserError(f"{name} has shape {_text(tensor)}; expected {tuple(map(int, wanted))}, from {source}.")


def _divides(name: str, tensor: Tensor, groups: int, channels: int) -> None:
    if groups == 0 or channels % groups:
        raise UserError(f"{name} has shape {_text(tensor)}: {groups} groups; expected a divisor of u's {channels} channels.")


def _same_dtype(**tensors: Tensor) -> None:
    (first, head), *rest = tensors.items()
    if head.dtype not in FLOATS:
        raise UserError(f"{first} is {_name(head)}; expected float16, bfloat16, float32 or float64.")
    for name, tensor in rest:
        if tensor.dtype != head.dtype:
            raise UserError(f"{name} is {_name(tensor)} while {first} is {_name(head)}; expected the same dtype.")
        if tensor.device != head.device:
            raise UserError(f"{name} is on {tensor.device}, {first} on {head.device}; expected one device.")


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(item, int) for item in pair):
        raise UserError(f"{name} is {value!r}; expected a whole number or two, (rows, columns).")
    return pair[0], pair[1]


def _text(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
