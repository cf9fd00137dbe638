"""PlainSeg-Hier's neck: maps at one stride become a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class SlimPyramid(BaseModule):
    """Four maps at stride 16, of earlier to later blocks -> strides 4, 8, 16 and 32, with a quarter, half, all and all of the channels.

    Args:
        channels: C of the maps, a multiple of 4.
        norm_cfg: of the norm between the two upsamplings.
    """

    def __init__(self, channels: int, norm_cfg: dict | None = None) -> None:
        super().__init__()
        self.upsample_4x = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            build_norm_layer(norm_cfg or {"type": "BN"}, channels // 2)[1],
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        )
        self.upsample_2x = nn.Sequential(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        self.downsample_2x = nn.MaxPool2d(2, 2)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four maps (N, C, h, w) -> (N, C / 4, 4 h, 4 w), (N, C / 2, 2 h, 2 w), (N, C, h, w), (N, C, h / 2, w / 2)."""
        first, second, third, last = inputs
        return self.upsample_4x(first), self.upsample_2x(second), third, self.downsample_2x(last)
