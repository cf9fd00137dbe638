"""Mask2Former's pixel decoder: deformable attention over the three coarse maps, then one step of a pyramid (section 3.2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from segc.core.contract import Size
from segc.models.mask2former.attention import DeformableAttention
from segc.models.positions import sine_encoding


class DeformablePixelDecoder(nn.Module):
    """Maps from fine to coarse -> features of the masks at the finest size, and the other maps after the encoder, coarsest first.

    Args:
        in_channels: of the maps, the finest first.
        channels: of the tokens.
        out_channels: of the masks' features.
        num_layers, num_heads, num_points, hidden: of the encoder and its feed-forward networks.
        norm: config of the convolutions' norms.
    """

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        out_channels: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        hidden: int,
        norm: dict,
    ) -> None:
        super().__init__()
        finest, *coarse = in_channels
        self.input_convs = nn.ModuleList(ConvModule(before, channels, 1, bias=True, norm_cfg=norm, act_cfg=None) for before in coarse[::-1])
        self.encoder = Encoder([EncoderLayer(channels, num_heads, len(coarse), num_points, hidden) for _ in range(num_layers)])
        self.level_encoding = nn.Embedding(len(coarse), channels)
        self.lateral_convs = nn.ModuleList([ConvModule(finest, channels, 1, norm_cfg=norm, act_cfg=None)])
        self.output_convs = nn.ModuleList([ConvModule(channels, channels, 3, padding=1, norm_cfg=norm)])
        self.mask_feature = nn.Conv2d(channels, out_channels, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features (N, out_channels, h, w) of the finest map's size, and the coarse maps (N, channels, ., .)."""
        finest, *coarse = maps
        projected = [conv(x) for conv, x in zip(self.input_convs, coarse[::-1], strict=True)]
        levels = self._encode(projected)
        lateral = self.lateral_convs[0](finest)
        above = F.interpolate(levels[-1], lateral.shape[2:], mode="bilinear", align_corners=False)
        return self.mask_feature(self.output_convs[0](lateral + above)), levels

    def init_weights(self) -> None:
        """Random weights as mmdet draws them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            elif isinstance(module, FFN):
                for weight in (parameter for parameter in module.parameters() if parameter.dim() > 1):
                    nn.init.xavier_normal_(weight)
            elif isinstance(module, DeformableAttention):
                module.init_weights()
        for conv in self.input_convs:
            nn.init.xavier_uniform_(conv.get_parameter("conv.weight"))
        nn.init.normal_(self.level_encoding.weight)

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        sizes: list[Size] = [(x.shape[2], x.shape[3]) for x in maps]
        tokens = torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)
        encodings = [sine_encoding(x) + level[:, None, None] for x, level in zip(maps, self.level_encoding.weight, strict=True)]
        place = torch.cat([encoding.flatten(1) for encoding in encodings], 1).transpose(0, 1)
        centres = torch.cat([_centres(size, tokens) for size in sizes])
        parts = self.encoder(tokens, place, centres, sizes).transpose(1, 2).split([height * width for height, width in sizes], 2)
        return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


class Encoder(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, place: Tensor, centres: Tensor, sizes: list[Size]) -> Tensor:
        """Tokens (N, L, C) to the same shape, see ``DeformableAttention``."""
        for layer in self.layers:
            tokens = layer(tokens, place, centres, sizes)
        return tokens


class EncoderLayer(nn.Module):
    """Deformable attention and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, channels: int, num_heads: int, num_levels: int, num_points: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(channels, num_heads, num_levels, num_points)
        self.ffn = FFN(channels, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, tokens: Tensor, place: Tensor, centres: Tensor, sizes: list[Size]) -> Tensor:
        """Tokens (N, L, C) to the same shape, see ``DeformableAttention``."""
        tokens = self.norms[0](tokens + self.self_attn(tokens, place, centres, sizes))
        return self.norms[1](self.ffn(tokens))


def _centres(size: Size, like: Tensor) -> Tensor:
    """Centres of a map's pixels in the unit square, row by row: (h w, 2), right and down."""
    height, width = size
    down, right = ((torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side for side in size)
    return torch.stack([right.expand(height, -1), down[:, None].expand(-1, width)], -1).flatten(0, 1)
