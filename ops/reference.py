"""The definitions, in plain torch with autograd: slow, and what every other face is compared with (in float64)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segc.ops.checks import DIRECTIONS


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in: float32 for half precision, else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


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
    """Selective scan step by step (Mamba, arXiv 2312.00752, equation 2 with the zero-order hold of algorithm 2).

    ``h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t``, ``y_t = C_t h_t + D u_t``; arguments as in ``segc.ops.scan.selective_scan``.
    """
    work = accumulation_dtype(u.dtype)
    x, dt, b, c = (tensor.to(work) for tensor in (u, delta, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias[None, :, None]
    if delta_softplus:
        dt = F.softplus(dt)
    b, c = (_per_channel(tensor, u.shape[1]) for tensor in (b, c))
    state = x.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    outputs: list[Tensor] = []
    length = u.shape[2]
    for t in reversed(range(length)) if reverse else range(length):
        step = dt[:, :, t, None]
        state = torch.exp(step * A) * state + step * b[..., t] * x[:, :, t, None]
        outputs.append((state * c[..., t]).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, -1)
    if D is not None:
        y = y + D[None, :, None] * x
    return y.to(u.dtype)


def _per_channel(tensor: Tensor, channels: int) -> Tensor:
    """B or C (batch, [groups,] d_state, length) -> (batch, channels, d_state, length)."""
    if tensor.dim() == 3:
        tensor = tensor[:, None]
    return tensor.repeat_interleave(channels // tensor.shape[1], 1)


def cross_scan(x: Tensor) -> Tensor:
    """The four sequences of a map (VMamba, arXiv 2401.10166, figure 3): rows, columns, and both reversed.

    Args:
        x: (batch, channels, height, width).

    Returns:
        (batch, 4, channels, height * width).
    """
    rows = x.flatten(2)
    columns = x.transpose(2, 3).flatten(2)
    return torch.stack([rows, columns, rows.flip(2), columns.flip(2)], 1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """The sum of four sequences, each put back at its place in the map: the transpose of ``cross_scan``.

    Args:
        y: (batch, 4, channels, height * width).
        height, width: of the map.

    Returns:
        (batch, channels, height, width).
    """
    rows = y[:, 0] + y[:, 2].flip(-1)
    columns = y[:, 1] + y[:, 3].flip(-1)
    return rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(-2, -1)


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
    """Scan a map along four directions and sum (the SS2D of VMamba); arguments as in ``segc.ops.scan.cross_selective_scan``."""
    batch, channels, height, width = u.shape
    work = accumulation_dtype(u.dtype)
    sequences = [
        _along_directions(tensor.to(work).reshape(batch, DIRECTIONS, -1, height, width)) for tensor in (u.repeat(1, 4, 1, 1), delta, B, C)
    ]
    x, dt, b, c = sequences
    y = selective_scan(x.flatten(1, 2), dt.flatten(1, 2), A, b, c, D, delta_bias, delta_softplus)
    return cross_merge(y.unflatten(1, (DIRECTIONS, channels)), height, width).to(u.dtype)


def _along_directions(maps: Tensor) -> Tensor:
    """Maps (batch, 4, n, height, width), one a direction -> (batch, 4, n, length), each in its direction's order."""
    return torch.stack([cross_scan(maps[:, k])[:, k] for k in range(DIRECTIONS)], 1)


def window_indices(length: int, kernel: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Keys of every query along one axis, with NATTEN's border rule: the window is shifted inside, never padded.

    Queries whose indices agree modulo the dilation form a group; within it the window of query ``g`` starts at
    ``clip(g - kernel // 2, 0, group length - kernel)`` (Neighborhood Attention Transformer, arXiv 2204.07143; dilation: 2209.15001).

    Returns:
        Two (length, kernel) int64 tensors: the index of each key, and its row in the relative position bias
        (key - query + kernel - 1, counted within the group).
    """
    query = torch.arange(length)
    member, group = query // dilation, query % dilation
    members = (length - group + dilation - 1) // dilation
    start = torch.minimum((member - kernel // 2).clamp(min=0), members - kernel)
    keys = start[:, None] + torch.arange(kernel)
    return keys * dilation + group[:, None], keys - member[:, None] + kernel - 1


def neighborhood_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    scale: float | None = None,
    rpb: Tensor | None = None,
) -> Tensor:
    """Neighbourhood attention by gathering every window; arguments as in ``segc.ops.attention.neighborhood_attention_2d``."""
    work = accumulation_dtype(q.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, row_bias = (index.to(q.device) for index in window_indices(q.shape[1], kernel_size[0], dilation[0]))
    columns, column_bias = (index.to(q.device) for index in window_indices(q.shape[2], kernel_size[1], dilation[1]))
    keys, values = (tensor.to(work)[:, rows][:, :, :, columns] for tensor in (k, v))
    logits = torch.einsum("byxnd,byixjnd->byxnij", q.to(work) * scale, keys)
    if rpb is not None:
        bias = rpb.to(work)[:, row_bias[:, None, :, None], column_bias[None, :, None, :]]
        logits = logits + bias.permute(1, 2, 0, 3, 4)
    weights = logits.flatten(4).softmax(-1).view_as(logits)
    return torch.einsum("byxnij,byixjnd->byxnd", weights, values).to(q.dtype)
