"""The blocks of ExtremeC3Net: three separable convolutions of growing reach side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NORM_EPS = 1e-3


def split_width(channels: int) -> tuple[int, int, int]:
    """Channels of the three branches: a third each, the first takes what is left over."""
    third = channels // 3
    return channels - 2 * third, third, third


class NormAct(nn.Module):
    """Batch norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.act(self.bn(x))


class Conv(nn.Module):
    """A convolution without bias that keeps the size of the map, or halves it."""

    def __init__(self, before: int, after: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        return self.conv(x)


class ConcentratedConv(nn.Module):
    """A dilated separable convolution behind two one-dimensional ones that gather what its holes would miss (C3)."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if dilation > 1:
            reach, pad = 2 * dilation - 1, dilation - 1
            layers += [
                nn.Conv2d(before, before, (reach, 1), padding=(pad, 0), groups=before, bias=False),
                nn.BatchNorm2d(before),
                nn.PReLU(before),
                nn.Conv2d(before, before, (1, reach), padding=(0, pad), groups=before, bias=False),
                nn.BatchNorm2d(before),
            ]
        layers.append(nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, groups=before, bias=False))
        self.conv = nn.Sequential(*layers, nn.Conv2d(before, after, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H, W)."""
        return self.conv(x)


class Branches(nn.Module):
    """A convolution to a third of the width and three concentrated convolutions of it side by side, not yet normalised."""

    def __init__(self, before: int, after: int, dilations: Sequence[int], kernel_size: int, stride: int) -> None:
        super().__init__()
        third = after // 3
        self.c1 = Conv(before, third, kernel_size, stride)
        widths = split_width(after)
        self.d1, self.d2, self.d3 = (ConcentratedConv(third, width, d) for width, d in zip(widths, dilations, strict=True))

    def merge(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        x = self.c1(x)
        return torch.cat([self.d1(x), self.d2(x), self.d3(x)], 1)


class DownBlock(Branches):
    """Halves the map."""

    def __init__(self, before: int, after: int, dilations: Sequence[int]) -> None:
        super().__init__(before, after, dilations, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(after, eps=NORM_EPS)
        self.act = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / 2, W / 2)."""
        return self.act(self.bn(self.merge(x)))


class Block(Branches):
    """Keeps the size of the map; residual where told so."""

    def __init__(self, before: int, after: int, dilations: Sequence[int] = (2, 4, 8), residual: bool = True) -> None:
        super().__init__(before, after, dilations, kernel_size=1, stride=1)
        self.residual = residual
        self.bn = NormAct(after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H, W)."""
        merged = self.merge(x)
        return self.bn(x + merged if self.residual else merged)
