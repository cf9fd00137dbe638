"""PEM's pixel decoder: a light pyramid of gated contexts and deformable convolutions (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from torch import Tensor, nn

from segc.core.errors import UserError

_TAPS = 9


class PixelDecoder(nn.Module):
    """Maps at strides 4, 8, 16 and 32 -> features of the masks at stride 4, and maps for the queries, coarsest first.

    Args:
        in_channels: of the four maps.
        channels: of the pyramid.
        out_channels: of the masks' features.
        norm: config of the batch norms.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, out_channels: int, norm: dict) -> None:
        super().__init__()
        self.in_projections = nn.ModuleList(_conv1x1(before, channels, norm) for before in in_channels)
        self.conv_avg = _conv1x1(in_channels[-1], channels, norm)
        self.csm = nn.ModuleList(ContextGate(channels, norm) for _ in in_channels)
        self.dcn = nn.ModuleList(DeformableUp(channels, norm) for _ in in_channels[1:])
        self.out = _conv1x1(channels, out_channels, norm)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(N, out_channels, H / 4, W / 4), and (N, channels, H / s, W / s) for s = 32, 16 and 8.

        Raises:
            UserError: the maps do not halve from one to the next: the image's sides are no multiples of 32.
        """
        _check_sizes(inputs)
        coarsest_first = [project(x) for project, x in zip(self.in_projections, inputs, strict=True)][::-1]
        above = self.conv_avg(inputs[-1].mean((2, 3), keepdim=True))
        levels = []
        for gate, up, x in zip(self.csm, self.dcn, coarsest_first, strict=False):
            level, above = up(gate(x) + above)
            levels.append(level)
        return self.out(self.csm[-1](coarsest_first[-1]) + above), levels


class ContextGate(nn.Module):
    """A map plus the map times a gate of each channel, which its mean gives (context-based self-modulation).

    The published code takes the sigmoid twice, so that the gate lies between 0.5 and 0.73.
    """

    def __init__(self, channels: int, norm: dict) -> None:
        super().__init__()
        half = channels // 2
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, half, 1, bias=False), build_norm_layer(norm, half)[1], nn.ReLU(), nn.Conv2d(half, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + x * self.mlp(x.mean((2, 3), keepdim=True)).sigmoid().sigmoid()


class DeformableUp(nn.Module):
    """A deformable 3x3 convolution, whose result is a level, and a transposed one that doubles it for the next."""

    def __init__(self, channels: int, norm: dict) -> None:
        super().__init__()
        self.dcn_offset = nn.Conv2d(channels, 3 * _TAPS, 3, padding=1)
        for parameter in self.dcn_offset.parameters():
            nn.init.zeros_(parameter)
        self.dcn = DeformableConv(channels)
        self.dcn_bn = build_norm_layer(norm, channels)[1]
        self.up_sample = nn.ConvTranspose2d(channels, channels, 4, 2, 1, bias=False)
        self.up_bn = build_norm_layer(norm, channels)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the same shape, and (N, C, 2 H, 2 W)."""
        offsets, gates = self.dcn_offset(x).split([2 * _TAPS, _TAPS], 1)
        level = F.relu(self.dcn_bn(self.dcn(x, offsets, gates.sigmoid())))
        return level, F.relu(self.up_bn(self.up_sample(level)))


class DeformableConv(nn.Module):
    """A 3x3 convolution (padding 1) that reads each tap at an offset and scales it (DCNv2, arXiv 1811.11168).

    Written as bilinear sampling and a 1x1 convolution of the nine sampled maps: every runtime has both, and DeformConv hardly any.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        """The convolution of x (N, C, H, W); pixels outside are zero.

        Args:
            x: the map.
            offsets: (N, 18, H, W) in pixels: down and right of the first tap, of the second, ..., row by row.
            gates: (N, 9, H, W), factor of each tap.
        """
        n, channels, height, width = x.shape
        taps = torch.arange(_TAPS, device=x.device)[:, None, None]
        offsets = offsets.view(n, _TAPS, 2, height, width)
        rows = offsets[:, :, 0] + (taps // 3 - 1) + torch.arange(height, device=x.device)[:, None]
        columns = offsets[:, :, 1] + (taps % 3 - 1) + torch.arange(width, device=x.device)
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
        sampled = F.grid_sample(x, grid.view(n, _TAPS * height, width, 2), align_corners=False)
        gated = sampled.view(n, channels, _TAPS, height, width) * gates[:, None]
        return F.conv2d(gated.view(n, channels * _TAPS, height, width), self.weight.flatten(1)[:, :, None, None])


def _conv1x1(before: int, after: int, norm: dict) -> ConvModule:
    module = ConvModule(before, after, 1, norm_cfg=norm)
    nn.init.kaiming_normal_(module.conv.weight, a=1)
    return module


def _check_sizes(maps: Sequence[Tensor]) -> None:
    sizes = [(x.shape[2], x.shape[3]) for x in maps]
    if any((fine[0], fine[1]) != (2 * coarse[0], 2 * coarse[1]) for fine, coarse in pairwise(sizes)):
        raise UserError(
            f"PEM takes images whose sides are multiples of 32; this one gives maps of {', '.join(f'{h}x{w}' for h, w in sizes)}.",
            "Pad them: model.data_preprocessor.test_cfg=dict(size_divisor=32)",
        )
