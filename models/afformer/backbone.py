"""AFFormer's backbone for mmseg: four stages at strides 4, 8, 8 and 8, whose tokens lie on a coarser grid than their pixels.

Module names are those of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.core.errors import UserError, nearest
from segc.models.afformer.attention import TokenEncoder

# Strides of the two chained embeddings of each stage: the first is that of the pixels, the second of the tokens.
_STRIDES = ((1, 1), (2, 1), (1, 2), (1, 4))
_MLP_RATIO = 2
# The published ramp of drop rates counts one layer of the first stage, which has none.
_FIRST_STAGE = 1
_ACT = {"type": "HSwish"}


@dataclass(frozen=True)
class Variant:
    """Widths and depths of a published backbone, one number a stage; the first stage has no token layers."""

    dims: tuple[int, int, int, int]
    layers: tuple[int, int, int]


VARIANTS = {
    "tiny": Variant((32, 64, 160, 216), (2, 4, 2)),
    "small": Variant((32, 64, 176, 216), (2, 4, 2)),
    "base": Variant((32, 96, 176, 216), (2, 6, 2)),
}


@MODELS.register_module()
class AFFormer(BaseModule):
    """Image (N, 3, H, W) of any size -> maps at strides 4, 8, 8 and 8 (sizes rounded up).

    Args:
        arch: ``tiny``, ``small`` or ``base``.
        drop_path_rate: stochastic depth of the last layer; earlier ones have less, linearly.
        hidden: widths of the feed-forward networks, one sequence for each of the last three stages; None takes the variant's. A pruned
            network tells its own.
        norm_cfg: of the batch norms.
        init_cfg: of mmengine.

    Raises:
        UserError: an unknown variant.
    """

    def __init__(
        self,
        arch: str = "base",
        drop_path_rate: float = 0.0,
        hidden: Sequence[Sequence[int]] | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if arch not in VARIANTS:
            raise UserError(f"AFFormer has no variant {arch!r}.{nearest(arch, VARIANTS)}")
        variant, norm = VARIANTS[arch], norm_cfg or {"type": "BN"}
        dims = variant.dims
        self.stem = nn.Sequential(
            _conv(3, dims[0] // 2, 3, norm, stride=2, padding=1), _conv(dims[0] // 2, dims[0], 3, norm, stride=2, padding=1)
        )
        self.patch_embed_stages = nn.ModuleList(PatchEmbed(dim, strides, norm) for dim, strides in zip(dims, _STRIDES, strict=True))
        widths = hidden or [[_MLP_RATIO * dim] * depth for dim, depth in zip(dims[1:], variant.layers, strict=True)]
        rates = _drop_rates(variant, drop_path_rate)
        self.mhca_stages = nn.ModuleList([PixelStage(dims[0], dims[1], norm)])
        for stage in (1, 2, 3):
            after = dims[min(stage + 1, 3)]
            self.mhca_stages.append(TokenStage(dims[stage], after, list(widths[stage - 1]), rates[stage - 1], norm))

    def init_weights(self) -> None:
        """Random weights as the paper's code draws them, unless ``init_cfg`` says otherwise."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _init_conv(module)
        super().init_weights()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The four maps, finest first."""
        x, maps = self.stem(images), []
        for embed, stage in zip(self.patch_embed_stages, self.mhca_stages, strict=True):
            x = stage(*embed(x))
            maps.append(x)
        return tuple(maps)


class PatchEmbed(nn.Module):
    """Two chained separable convolutions: the first gives a stage its pixels, the second its tokens."""

    def __init__(self, channels: int, strides: tuple[int, int], norm: dict) -> None:
        super().__init__()
        self.patch_embeds = nn.ModuleList(Embedding(channels, stride, norm) for stride in strides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and tokens of a map (N, C, H, W)."""
        pixels, tokens = self.patch_embeds
        x = pixels(x)
        return x, tokens(x)


class Embedding(nn.Module):
    """A separable convolution under the name that the published weights give it."""

    def __init__(self, channels: int, stride: int, norm: dict) -> None:
        super().__init__()
        self.patch_conv = SeparableConv(channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H / stride, W / stride)."""
        return self.patch_conv(x)


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise, batch norm, hard swish."""

    def __init__(self, channels: int, stride: int, norm: dict) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pwconv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = build_norm_layer(norm, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H / stride, W / stride)."""
        return F.hardswish(self.bn(self.pwconv(self.dwconv(x))))


class Restore(nn.Module):
    """Residual bottleneck of half the width on the pixels: it restores what the token grid lost."""

    def __init__(self, channels: int, norm: dict) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = _conv(channels, half, 1, norm)
        self.dwconv = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.norm = build_norm_layer(norm, half)[1]
        self.conv2 = ConvModule(half, channels, 1, norm_cfg=norm, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + self.conv2(F.hardswish(self.norm(self.dwconv(self.conv1(x)))))


class PixelStage(nn.Module):
    """The first stage: pixels only."""

    def __init__(self, channels: int, after: int, norm: dict) -> None:
        super().__init__()
        self.Restore = Restore(channels, norm)
        self.aggregate = _conv(channels, after, 1, norm)

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, after, H, W) of pixels and tokens on one grid."""
        return self.aggregate(self.Restore(pixels + tokens))


class TokenStage(PixelStage):
    """A later stage: encoded tokens are interpolated to the pixels' grid and added to the restored pixels."""

    def __init__(self, channels: int, after: int, hidden: list[int], drop_path: list[float], norm: dict) -> None:
        super().__init__(channels, after, norm)
        self.mhca_blks = nn.ModuleList([TokenEncoder(channels, hidden, drop_path)])

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, after, H, W) at the pixels' grid."""
        encoded = self.mhca_blks[0](tokens)
        if encoded.shape[2:] != pixels.shape[2:]:
            encoded = F.interpolate(encoded, pixels.shape[2:], mode="bilinear", align_corners=True)
        return self.aggregate(self.Restore(pixels) + encoded)


def _conv(before: int, after: int, kernel_size: int, norm: dict, **kwargs: Any) -> ConvModule:
    return ConvModule(before, after, kernel_size, norm_cfg=norm, act_cfg=_ACT, **kwargs)


def _drop_rates(variant: Variant, last: float) -> list[list[float]]:
    """Rates of each token layer, growing linearly."""
    rates = iter(torch.linspace(0, last, sum(variant.layers) + _FIRST_STAGE).tolist()[_FIRST_STAGE:])
    return [[next(rates) for _ in range(depth)] for depth in variant.layers]


def _init_conv(conv: nn.Conv2d) -> None:
    """A 1x1 convolution with a bias stands for a linear layer; the others are drawn by their fan-out."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if conv.bias is not None and conv.kernel_size == (1, 1):
        nn.init.trunc_normal_(conv.weight, std=0.02)
    else:
        fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
        nn.init.normal_(conv.weight, 0, math.sqrt(2 / fan_out))
