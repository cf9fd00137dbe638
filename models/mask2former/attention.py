"""Deformable attention over several maps, and attention under a mask; parameters are named as mmcv names them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segc.core.contract import Size

# Its exponential is zero in every float type; minus infinity would give NaN where a runtime subtracts two of them.
_MASKED = -1e4


class DeformableAttention(nn.Module):
    """Every token reads a few points of each map around its own place, and sums them by weights (arXiv 2010.04159, section 4.1).

    Written with bilinear sampling (``grid_sample``), which every runtime has.

    Args:
        channels: C of the tokens.
        num_heads: parts of C that read points of their own.
        num_levels: number of maps.
        num_points: points of each map.
    """

    def __init__(self, channels: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.grid = (num_heads, num_levels, num_points)
        self.sampling_offsets = nn.Linear(channels, 2 * math.prod(self.grid))
        self.attention_weights = nn.Linear(channels, math.prod(self.grid))
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Begin with equal weights of points on rays, one direction a head, one pixel further each point."""
        num_heads, num_levels, num_points = self.grid
        angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = rays[:, None, None] * torch.arange(1, num_points + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(steps.expand(-1, num_levels, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, place: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Tokens (N, L, C) to the same shape.

        Args:
            tokens: the pixels of all maps, one map after the other, row by row.
            place: position encoding of the tokens (L, C).
            centres: place of each token in the unit square (L, 2), right and down.
            sizes: (height, width) of each map.
        """
        num_heads, num_levels, num_points = self.grid
        placed = tokens + place
        offsets = self.sampling_offsets(placed).unflatten(2, (num_heads, num_levels, num_points * 2))
        weights = self.attention_weights(placed).unflatten(2, (num_heads, num_levels * num_points)).softmax(-1)
        values = self.value_proj(tokens).transpose(1, 2).split([height * width for height, width in sizes], 2)
        shares = weights.chunk(num_levels, -1)
        read = [
            self._read(values[level].unflatten(2, size), centres, offsets[:, :, :, level], shares[level])
            for level, size in enumerate(sizes)
        ]
        return self.output_proj(sum(read[1:], read[0]).flatten(1, 2).transpose(1, 2))

    def _read(self, value: Tensor, centres: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Weighted points of one map (N, C, h, w): (N, heads, C / heads, L).

        Args:
            value: the map.
            centres: (L, 2) in the unit square.
            offsets: (N, L, heads, points * 2) in pixels of the map.
            weights: (N, L, heads, points).
        """
        num_heads, _, num_points = self.grid
        n, _, height, width = value.shape
        half = torch.tensor([width / 2, height / 2], device=value.device, dtype=value.dtype)
        around = offsets.transpose(1, 2).flatten(0, 1).unflatten(2, (num_points, 2)) / half
        grid = (2 * centres - 1)[:, None] + around
        heads = value.unflatten(1, (num_heads, -1)).flatten(0, 1)
        points = F.grid_sample(heads, grid.to(value.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
        return (points * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1).unflatten(0, (n, num_heads))


class MaskedAttention(nn.Module):
    """Multi-head attention with a residual; the parameters are those of ``nn.MultiheadAttention``.

    Args:
        channels: C of queries and keys.
        num_heads: a divisor of it.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)

    def forward(self, queries: Tensor, place: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries (N, Q, C) to the same shape.

        Args:
            queries: (N, Q, C).
            place: position encoding of the queries (Q, C).
            keys: (N, L, C), their position encoding added.
            values: (N, L, C).
            bias: added to the products of queries and keys, (N, 1, Q, L) or None.
        """
        sources = (queries + place, keys, values)
        parts = zip(sources, self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, weight, shift).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x, weight, shift in parts)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return queries + self.attn.out_proj(attended.transpose(1, 2).flatten(2))


def mask_bias(logits: Tensor) -> Tensor:
    """What keeps queries from the pixels outside their masks: (N, Q, L) logits -> (N, 1, Q, L), 0 or very small.

    A query that would see nothing sees everything. Without gradient.
    """
    logits = logits.detach()
    blind = logits.amax(-1, keepdim=True) < 0
    return torch.where((logits >= 0) | blind, 0.0, _MASKED)[:, None]
