"""ExtremeC3Net for mmseg: a coarse path at stride 4 and a fine one at stride 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.models.extrememeta.layers import Block, Conv, DownBlock, NormAct
from segc.models.extrememeta.stem import LargeKernelStem

_STEM, _FIRST, _SECOND, FINE = 24, 48, 56, 24
_IMAGE = 3


class ConvNormAct(Conv):
    """The published stem: convolution, batch norm, PReLU."""

    def __init__(self, before: int, after: int, kernel_size: int, stride: int) -> None:
        super().__init__(before, after, kernel_size, stride)
        self.norm = NormAct(after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        return self.norm(self.conv(x))


@MODELS.register_module()
class ExtremeC3Net(BaseModule):
    """Image (N, 3, H, W) of any size -> one map of 24 channels at stride 2 (sizes rounded up), to be normalised by the head.

    Args:
        first_blocks: p, blocks of 48 channels.
        second_blocks: q, blocks of 56 channels.
        stem_kernels: kernel sizes of an ExtremeMETA-style stem; None takes the published 3x3 stem.
        init_cfg: of mmengine.
    """

    def __init__(
        self, first_blocks: int = 1, second_blocks: int = 5, stem_kernels: Sequence[int] | None = None, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.level1 = LargeKernelStem(_IMAGE, _STEM, stem_kernels) if stem_kernels else ConvNormAct(_IMAGE, _STEM, 3, 2)
        self.b1 = NormAct(_STEM + _IMAGE)
        self.level2_0 = DownBlock(_STEM + _IMAGE, _FIRST, (1, 2, 3))
        self.level2 = nn.Sequential(*(Block(_FIRST, _FIRST, (1, 3, 4)) for _ in range(first_blocks)))
        self.b2 = NormAct(2 * _FIRST + _IMAGE)
        self.level3_0 = Block(2 * _FIRST + _IMAGE, _SECOND, (1, 3, 5), residual=False)
        self.level3 = nn.Sequential(*(Block(_SECOND, _SECOND) for _ in range(second_blocks)))
        self.b3 = NormAct(2 * _SECOND)
        self.upsample = nn.Sequential(nn.Conv2d(2 * _SECOND, FINE, 1, bias=False), nn.BatchNorm2d(FINE))
        self.fine = nn.Sequential(Conv(_IMAGE, FINE, 3, 2), Block(FINE, FINE))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """The map."""
        half = F.avg_pool2d(images, 2, ceil_mode=True)
        x = self.b1(torch.cat([self.level1(images), half], 1))
        down = self.level2_0(x)
        x = self.b2(torch.cat([self.level2(down), down, F.avg_pool2d(half, 2, ceil_mode=True)], 1))
        deep = self.level3_0(x)
        coarse = self.upsample(self.b3(torch.cat([deep, self.level3(deep)], 1)))
        fine = self.fine(images)
        return (fine + F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=True),)
