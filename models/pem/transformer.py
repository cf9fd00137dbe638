"""PEM's transformer: six layers in which every query attends to the one pixel of each head that resembles it most (section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from segc.models.mask_classification import Prediction
from segc.models.positions import sine_encoding

LEVELS = 3
# Below every cosine; minus infinity would make runtimes disagree on a query whose pixels are all masked.
_MASKED = -1e4


class QueryDecoder(nn.Module):
    """Queries read the three coarse maps in turn; before the first layer and after each of them they tell a class and a mask.

    Args:
        num_classes: without "no object", which is the last logit.
        in_channels: of the coarse maps.
        channels: of the queries and of the masks' features.
        num_queries, num_heads, num_layers: as their names say.
        feedforward_channels: hidden width of the layers' feed-forward networks.
        norm: config of the batch norms.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        channels: int,
        num_queries: int,
        num_heads: int,
        num_layers: int,
        feedforward_channels: int,
        norm: dict,
    ) -> None:
        super().__init__()
        self.input_proj = nn.ModuleList(_projection(in_channels, channels) for _ in range(LEVELS))
        self.level_embed = nn.Embedding(LEVELS, channels)
        self.query_feat = nn.Embedding(num_queries, channels)
        self.query_embed = nn.Embedding(num_queries, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, num_heads, feedforward_channels, norm) for _ in range(num_layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, levels: list[Tensor], features: Tensor) -> list[Prediction]:
        """Predictions, first to last: logits of the classes (N, Q, K + 1) and of the masks (N, Q, h, w).

        Args:
            levels: maps (N, in_channels, h / s, w / s), coarsest first.
            features: of the masks (N, channels, h, w).
        """
        projected = [project(x) for project, x in zip(self.input_proj, levels, strict=True)]
        memories = [x + level[:, None, None] + sine_encoding(x) for x, level in zip(projected, self.level_embed.weight, strict=True)]
        queries = self.query_feat.weight.expand(features.shape[0], -1, -1)
        predictions = [self._predict(queries, features)]
        for index, layer in enumerate(self.layers):
            memory = memories[index % LEVELS]
            mask = F.interpolate(predictions[-1][1].detach(), memory.shape[2:], mode="bilinear", align_corners=False)
            queries = layer(queries, self.query_embed.weight, memory, mask)
            predictions.append(self._predict(queries, features))
        return predictions

    def _predict(self, queries: Tensor, features: Tensor) -> Prediction:
        queries = self.decoder_norm(queries)
        masks = self.mask_embed(queries) @ features.flatten(2)
        return self.class_embed(queries), masks.view(*masks.shape[:2], *features.shape[2:])


class DecoderLayer(nn.Module):
    """Attention to prototypes, attention among queries, feed-forward network; each adds to the queries."""

    def __init__(self, channels: int, num_heads: int, feedforward_channels: int, norm: dict) -> None:
        super().__init__()
        self.cross_attention = PrototypeAttention(channels, num_heads, norm)
        self.self_attention = SelfAttention(channels, num_heads)
        self.ffn = FeedForward(channels, feedforward_channels)

    def forward(self, queries: Tensor, place: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Queries (N, Q, C) to the same shape; ``place`` (Q, C) is their position encoding, see ``PrototypeAttention`` for the others."""
        return self.ffn(self.self_attention(self.cross_attention(queries, place, memory, mask), place))


class PrototypeAttention(nn.Module):
    """Each head of each query takes the pixel with the largest cosine under its mask, and mixes with it by products, without a softmax."""

    def __init__(self, channels: int, num_heads: int, norm: dict) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.feature_proj = LocalProjection(channels, norm)
        self.query_proj = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.proj = nn.Linear(channels, channels)
        self.final = nn.Linear(channels, channels)
        self.alpha = nn.Parameter(torch.ones(1, 1, channels))

    def forward(self, queries: Tensor, place: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Queries (N, Q, C) to the same shape.

        Args:
            queries: (N, Q, C).
            place: position encoding of the queries (Q, C).
            memory: the map they read, its position encoding added (N, C, H, W).
            mask: logits (N, Q, H, W); a query sees the pixels at or above zero.
        """
        tokens = F.normalize(self.feature_proj(memory), dim=-1)
        wanted = F.normalize(self.query_proj(queries + place), dim=-1)
        prototypes = self._prototypes(tokens, wanted, mask.flatten(2))
        # Over the queries, not over the channels: as published.
        mixed = F.normalize(self.proj(prototypes * wanted), dim=1)
        return queries + self.final(mixed * self.alpha + prototypes)

    def _prototypes(self, tokens: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
        """Of tokens (N, L, C) the parts that the heads of ``wanted`` (N, Q, C) choose, put together: (N, Q, C)."""
        tokens, wanted = self._split(tokens), self._split(wanted)
        similarity = wanted @ tokens.transpose(2, 3)
        # An image in which no query sees anything is not masked at all.
        blind = mask.amax((1, 2), keepdim=True) < 0
        least = torch.where(blind, torch.finfo(mask.dtype).min, 0.0)
        seen = torch.where((mask >= least)[:, None], similarity, _MASKED)
        chosen = seen.argmax(-1, keepdim=True).expand(-1, -1, -1, tokens.shape[-1])
        return tokens.gather(2, chosen).transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class LocalProjection(nn.Module):
    """Norm, depthwise 3x3 and a linear layer: the pixels of a map as tokens."""

    def __init__(self, channels: int, norm: dict) -> None:
        super().__init__()
        self.bn = build_norm_layer(norm, channels)[1]
        self.to_query_3x3 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H W, C)."""
        return self.out(self.to_query_3x3(self.bn(x)).flatten(2).transpose(1, 2))


class SelfAttention(nn.Module):
    """Multi-head attention among the queries, norm first."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.self_attn.out_proj.weight)

    def forward(self, queries: Tensor, place: Tensor) -> Tensor:
        """Queries (N, Q, C) to the same shape; ``place`` (Q, C) is their position encoding."""
        normed = self.norm(queries)
        placed = normed + place
        return queries + self.self_attn(placed, placed, normed, need_weights=False)[0]


class FeedForward(nn.Module):
    """Two linear layers, norm first."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, Q, C) to the same shape."""
        return x + self.linear2(F.relu(self.linear1(self.norm(x))))


def _projection(before: int, after: int) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, 1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv
