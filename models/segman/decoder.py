"""SegMAN's decoder MMSCopE as an mmseg head: one scan over three scales of context, brought to one resolution without loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.models.segman.layers import MixerBlock, SelectiveScan2d

_SCALES = 3


class Projection(nn.Module):
    """A linear map of the channels of (N, C, H, W)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H, W)."""
        return self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SegMANDecoder(BaseDecodeHead):
    """Maps at strides 4, 8, 16 and 32 -> logits at stride 8 (section 3.3 of arXiv 2412.11890). The map at stride 4 is not used.

    Args:
        feat_proj_dim: channels each of the three maps is projected to.
        kwargs: of mmseg's ``BaseDecodeHead``; ``in_channels`` and ``in_index`` name the four maps.
    """

    def __init__(self, feat_proj_dim: int, **kwargs: Any) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        width, projected = self.channels, feat_proj_dim
        self.linear_c4 = Projection(self.in_channels[3], projected)
        self.linear_c3 = Projection(self.in_channels[2], projected)
        self.linear_c2 = Projection(self.in_channels[1], projected)
        self.linear_fuse = self._conv(3 * projected, width, 1)
        self.conv_downsample_2 = self._conv(width, 2 * width, 3, stride=2, padding=1)
        self.conv_downsample_4 = self._conv(width, 4 * width, 5, stride=4, padding=1)
        self.reduce_channels = nn.ModuleList(self._conv(4 * width * 2**scale, width, 1) for scale in range(_SCALES))
        context = _SCALES * width
        self.vssm = MixerBlock(context, SelectiveScan2d(context), 4 * context)
        self.short_path = self._conv(width, width, 1)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), self._conv(width, width, 1))
        self.proj_out = self._conv(context, projected, 1)
        self.cat = self._conv(2 * width + context + 3 * projected, width, 1)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits (N, classes, H / 8, W / 8)."""
        _, c2, c3, c4 = self._transform_inputs(inputs)
        size = c2.shape[2:]
        c2 = self.linear_c2(c2)
        c3 = self._resize(self.linear_c3(c3), size)
        c4 = self._resize(self.linear_c4(c4), size)
        fused = self.linear_fuse(torch.cat([c4, c3, c2], 1))
        context = self._resize(self.vssm(self._scales(fused)), size)
        added = self.proj_out(context)
        pooled = self.image_pool(fused).expand(-1, -1, *size)
        parts = [self.short_path(fused), pooled, context, c2 + added, c3 + added, c4 + added]
        return self.cls_seg(self.cat(torch.cat(parts, 1)))

    def _scales(self, x: Tensor) -> Tensor:
        """Three scales of context at a quarter of x's size: pixel unshuffling moves pixels into channels, so that none is lost."""
        quarter, half, whole = self.reduce_channels
        parts = [
            whole(F.pixel_unshuffle(x, 4)),
            half(F.pixel_unshuffle(self.conv_downsample_2(x), 2)),
            quarter(self.conv_downsample_4(x)),
        ]
        return torch.cat(parts, 1)

    def _resize(self, x: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)

    def _conv(self, before: int, after: int, kernel_size: int, **kwargs: int) -> ConvModule:
        return ConvModule(before, after, kernel_size, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, **kwargs)
