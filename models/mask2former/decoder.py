"""Mask2Former's transformer decoder: masked attention to the maps in turn, and the class and mask that each query tells (section 3.2.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from segc.models.mask2former.attention import MaskedAttention, mask_bias
from segc.models.mask_classification import Prediction
from segc.models.mask_head import MaskClassificationHead
from segc.models.positions import sine_encoding


class DecoderLayer(nn.Module):
    """Attention to pixels, attention among the queries, feed-forward network, each with a residual and a norm after it."""

    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attn = MaskedAttention(channels, num_heads)
        self.self_attn = MaskedAttention(channels, num_heads)
        self.ffn = FFN(channels, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(self, queries: Tensor, place: Tensor, keys: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Queries (N, Q, C) to the same shape; see ``MaskedAttention`` for the others."""
        queries = self.norms[0](self.cross_attn(queries, place, keys, memory, bias))
        queries = self.norms[1](self.self_attn(queries, place, queries + place, queries))
        return self.norms[2](self.ffn(queries))


class TransformerDecoder(nn.Module):
    """The layers, and the norm before the predictions."""

    def __init__(self, channels: int, num_layers: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(channels, num_heads, hidden) for _ in range(num_layers))
        self.post_norm = nn.LayerNorm(channels)


class MaskedDecoderHead(MaskClassificationHead):
    """A head whose queries read maps by masked attention: what Mask2Former and PlainSeg have in common.

    Args:
        num_classes: without "no object", which is the last logit.
        num_levels: number of maps that the layers read in turn.
        channels: of queries and maps.
        out_channels: of the masks' features.
        num_queries, num_layers, num_heads, hidden: of the decoder and its feed-forward networks.
        kwargs: of ``MaskClassificationHead``.
    """

    def __init__(
        self,
        num_classes: int,
        num_levels: int,
        channels: int = 256,
        out_channels: int = 256,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        hidden: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.transformer_decoder = TransformerDecoder(channels, num_layers, num_heads, hidden)
        self.query_embed = nn.Embedding(num_queries, channels)
        self.query_feat = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Embedding(num_levels, channels)
        self.cls_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out_channels)
        )

    @abstractmethod
    def pixels(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps of the backbone -> features of the masks (N, out_channels, h, w), and the maps that the queries read in turn."""

    def init_weights(self) -> None:
        """Random weights as mmdet draws them."""
        for weight in self.transformer_decoder.parameters():
            if weight.dim() > 1:
                nn.init.xavier_normal_(weight)
        super().init_weights()

    def predictions(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        """Before the first layer and after each of them: logits of the classes (N, Q, K + 1) and of the masks (N, Q, h, w)."""
        features, levels = self.pixels(inputs)
        memories = [x.flatten(2).transpose(1, 2) + level for x, level in zip(levels, self.level_embed.weight, strict=True)]
        keys = [memory + sine_encoding(x).flatten(1).transpose(0, 1) for x, memory in zip(levels, memories, strict=True)]
        queries = self.query_feat.weight.expand(features.shape[0], -1, -1)
        found = [self._predict(queries, features)]
        for index, layer in enumerate(self.transformer_decoder.layers):
            level = index % len(levels)
            masks = F.interpolate(found[-1][1], levels[level].shape[2:], mode="bilinear", align_corners=False)
            queries = layer(queries, self.query_embed.weight, keys[level], memories[level], mask_bias(masks.flatten(2)))
            found.append(self._predict(queries, features))
        return found

    def _predict(self, queries: Tensor, features: Tensor) -> Prediction:
        queries = self.transformer_decoder.post_norm(queries)
        masks = self.mask_embed(queries) @ features.flatten(2)
        return self.cls_embed(queries), masks.unflatten(2, features.shape[2:])
