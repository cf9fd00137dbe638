"""The modules of HetNet's head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from segc.models.pooling import pooling_matrices

POOLS = (1, 2, 3, 6)


def conv(before: int, after: int, kernel_size: int, relu: bool = True, **kwargs: Any) -> ConvModule:
    """Convolution, batch norm and, unless told otherwise, ReLU."""
    act = {"type": "ReLU"} if relu else None
    return ConvModule(before, after, kernel_size, norm_cfg={"type": "BN"}, act_cfg=act, **kwargs)


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, corner pixels on corner pixels: what the published network does everywhere."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class Fusion(nn.Module):
    """Product of two maps of one size, then two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = conv(channels, channels, 3, padding=1)
        self.conv_2 = conv(channels, channels, 3, padding=1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        return self.conv_2(self.conv_1(one * other))


class CrossFusion(nn.Module):
    """Two maps multiplied at the finer and at the coarser size, and the products fused at the finer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = conv(channels, channels, 3, stride=2, padding=1)
        self.conv_1 = conv(channels, channels, 3, padding=1)
        self.conv_2 = conv(channels, channels, 3, padding=1)
        self.mul = Fusion(channels)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Map of the size of ``fine``; ``coarse`` has half of it, rounded up."""
        size = fine.shape[2:]
        left = self.conv_1(fine * resize(coarse, size))
        right = self.conv_2(self.down(fine) * coarse)
        return self.mul(left, resize(right, size))


class ReflectionSemantics(nn.Module):
    """Three branches of growing receptive field beside a projection (RSL, section 3.3).

    The published 1x1 convolutions have a padding of 1, so that the map grows by 2 in height and width.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(conv(before, after, 1, relu=False, padding=1))
        self.branch1 = self._branch(before, after, 1)
        self.branch2 = self._branch(before, after, 2)
        self.conv_cat = conv(3 * after, after, 3, relu=False, padding=1)
        self.conv_res = conv(before, after, 1, relu=False, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H + 2, W + 2)."""
        branches = torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], 1)
        return F.relu(self.conv_cat(branches) + self.conv_res(x))

    @staticmethod
    def _branch(before: int, after: int, wide: int) -> nn.Sequential:
        layers = [conv(before, after, 1, padding=1)]
        layers += [conv(after, after, 7, padding=3) for _ in range(wide)]
        return nn.Sequential(*layers, conv(after, after, 3, relu=False, padding=7, dilation=7))


class CoordinateGate(nn.Module):
    """Coordinate attention (arXiv 2103.02907): a map times a gate of its row means and a gate of its column means.

    Args:
        channels: C of the map.
        turned: gate as on the map turned by 90 degrees. Every layer here is pointwise, so that turning the map, gating it and turning it
            back only exchanges the gates of rows and columns; nothing is turned.
    """

    def __init__(self, channels: int, turned: bool = False) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.turned = turned
        self.conv1 = ConvModule(channels, hidden, 1, bias=True, norm_cfg={"type": "BN"}, act_cfg={"type": "HSwish"})
        self.conv_h = nn.Conv2d(hidden, channels, 1)
        self.conv_w = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        strips = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = self.conv1(strips).split([x.shape[2], x.shape[3]], 2)
        row_gate, column_gate = (self.conv_w, self.conv_h) if self.turned else (self.conv_h, self.conv_w)
        return x * column_gate(columns.transpose(2, 3)).sigmoid() * row_gate(rows).sigmoid()


class IntensityContrast(nn.Module):
    """Gates of an upright and of a turned map, multiplied, then a separable convolution (MIC, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.SA1 = CoordinateGate(channels, turned=True)
        self.SA2 = CoordinateGate(channels)
        self.conv = nn.Sequential(conv(channels, channels, 3, padding=1, groups=channels), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.conv(self.SA2(x) * self.SA1(x))


class PyramidPooling(nn.Module):
    """A map beside its averages over 1x1, 2x2, 3x3 and 6x6 bins, projected (PSPNet's pooling with nearest interpolation)."""

    bins: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.register_buffer("bins", torch.tensor(POOLS), persistent=False)
        self.convs = nn.ModuleList(conv(before, before // len(POOLS), 1) for _ in POOLS)
        self.out = conv(2 * before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H, W)."""
        size = x.shape[2:]
        heights, widths = (pooling_matrices(self.bins, max(POOLS), side).to(x.dtype).transpose(1, 2) for side in size)
        parts = [x]
        for index, (bins, project) in enumerate(zip(POOLS, self.convs, strict=True)):
            # Matrices on the right only, as in a linear layer: quantizers take no other.
            pooled = (x @ widths[index, :, :bins]).transpose(2, 3) @ heights[index, :, :bins]
            parts.append(F.interpolate(project(pooled.transpose(2, 3)), size))
        return self.out(torch.cat(parts, 1))
