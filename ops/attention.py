"""Neighbourhood attention as a torch operator: ``torch.compile`` and ``torch.export`` see one node, ``segc::neighborhood_attention_2d``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segc.ops import reference
from segc.ops.checks import check_attention


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
    return _neighborhood_attention_2d(q, k, v, window.kernel_size, window.dilation, scale, rpb)


@torch.library.custom_op("segc::neighborhood_attention_2d", mutates_args=())
def _neighborhood_attention_2d(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Tensor | None
) -> Tensor:
    rows, columns = kernel_size
    return reference.neighborhood_attention_2d(q, k, v, (rows, columns), (dilation[0], dilation[1]), scale, rpb).contiguous()


@_neighborhood_attention_2d.register_fake
def _(q, k, v, kernel_size, dilation, scale, rpb):  # type: ignore[no-untyped-def]
    return torch.empty_like(q, memory_format=torch.contiguous_format)
