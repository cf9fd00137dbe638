"""Floating point operations of the operators, for ``torch.utils.flop_counter``; importing this module registers them.

Counted as the counter counts matrix products: a multiplication and an addition are two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from segc.ops import attention, scan  # noqa: F401  (they define the operators)

# Of each step and state: delta A, exp, delta B u, its sum with the decayed state, C h and its sum (VMamba counts nine).
_PER_STATE = 9


@register_flop_formula(torch.ops.segc.selective_scan)
def scan_flops(u: Sequence[int], delta: Sequence[int], A: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """9 batch x length x channels x d_state, and 1 for the skip; arguments are shapes.

    Twice that, so that it keeps its weight where multiply-accumulates, half of the total, are told: the field's tables do so.
    """
    batch, channels, length = u
    return 2 * batch * length * channels * (_PER_STATE * A[1] + 1)


@register_flop_formula(torch.ops.segc.cross_selective_scan)
def cross_scan_flops(u: Sequence[int], delta: Sequence[int], A: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """The scans of the four directions."""
    batch, channels, height, width = delta
    return scan_flops((batch, channels, height * width), delta, A)


@register_flop_formula(torch.ops.segc.neighborhood_attention_2d)
def attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], kernel_size: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Two products of every query with the window: logits and weighted sum."""
    batch, height, width, heads, head_dim = q
    return 2 * 2 * batch * height * width * heads * head_dim * kernel_size[0] * kernel_size[1]
