"""AFFormer's token blocks: attention of linear cost, with a high-pass and a low-pass filter of the values (section 3.3).

Everything stays a map (N, C, H, W): the linear layers are 1x1 convolutions, so that no transposition stands around the depthwise ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn

from segc.models.pooling import bilinear_matrices, pooling_matrices
from segc.models.segman.layers import ChannelNorm, depthwise

# Kernel size -> heads it filters; 8 heads in all.
HIGH_PASS = {3: 2, 5: 3, 7: 3}
HEADS = sum(HIGH_PASS.values())
LOW_PASS = (1, 2, 3, 6)


class PositionalConv(nn.Module):
    """Adds a depthwise convolution of a map to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = depthwise(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + self.proj(x)


class LowPass(nn.Module):
    """A quarter of the channels each averaged over 1x1, 2x2, 3x3 and 6x6 bins and interpolated back; then ReLU.

    Every channel has matrices of its own, equal within a quarter: tensors of four axes, which all runtimes and calibration take.

    Args:
        channels: C of the map, a multiple of 4.
    """

    bins: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("bins", torch.tensor(LOW_PASS).repeat_interleave(channels // len(LOW_PASS)), persistent=False)

    def matrices(self, height: int, width: int) -> tuple[Tensor, ...]:
        """What ``forward`` multiplies maps of one size with, on the left and on the right."""
        most = max(LOW_PASS)
        down_width, up_width = pooling_matrices(self.bins, most, width), bilinear_matrices(self.bins, most, width)
        down_height, up_height = pooling_matrices(self.bins, most, height), bilinear_matrices(self.bins, most, height)
        return down_height, down_width.transpose(1, 2), up_height, up_width.transpose(1, 2)

    def forward(self, x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        left_down, right_down, left_up, right_up = (matrix.to(x.dtype) for matrix in matrices)
        return F.relu(left_up @ (left_down @ x @ right_down) @ right_up)


class FrequencyFilter(nn.Module):
    """Queries times high-pass filtered values, plus low-pass filtered values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel_splits = [channels // HEADS * heads for heads in HIGH_PASS.values()]
        self.conv_list = nn.ModuleList(depthwise(width, kernel) for width, kernel in zip(self.channel_splits, HIGH_PASS, strict=True))
        self.low_pass = LowPass(channels)

    def forward(self, q: Tensor, v: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, C, H, W) of queries and values to the same shape."""
        parts = v.split(self.channel_splits, 1)
        high = torch.cat([conv(part) for conv, part in zip(self.conv_list, parts, strict=True)], 1)
        return q * high + self.low_pass(v, matrices)


class FilterAttention(nn.Module):
    """Attention whose keys are normalised over the tokens, so that its cost is linear in them, plus the filtered values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, filters: FrequencyFilter, matrices: tuple[Tensor, ...]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        q_map, k_map, v_map = self.qkv(x).chunk(3, 1)
        q, k, v = (tensor.flatten(2).unflatten(1, (HEADS, -1)) for tensor in (q_map, k_map, v_map))
        context = v @ k.softmax(-1).transpose(-1, -2)
        attended = (self.scale * (context @ q)).flatten(1, 2).view_as(x)
        return self.proj(attended + filters(q_map, v_map, matrices))


class InnerConv(nn.Module):
    """A depthwise 3x3 convolution under the name that the published weights give it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = depthwise(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.dwconv(x)


class ConvMlp(nn.Module):
    """Feed-forward network with a residual depthwise convolution before the activation."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = InnerConv(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        hidden = self.fc1(x)
        return self.fc2(F.gelu(hidden + self.dwconv(hidden)))


class TokenLayer(nn.Module):
    """Attention and feed-forward network, each residual after a norm."""

    def __init__(self, channels: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.factoratt_crpe = FilterAttention(channels)
        self.norm2 = ChannelNorm(channels)
        self.mlp = ConvMlp(channels, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, filters: FrequencyFilter, matrices: tuple[Tensor, ...]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x = x + self.drop_path(self.factoratt_crpe(self.norm1(x), filters, matrices))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TokenEncoder(nn.Module):
    """Layers that share one positional convolution and one set of filters.

    Args:
        channels: C of the map, a multiple of 8.
        hidden: width of each layer's feed-forward network.
        drop_path: share of samples whose residual branches each layer skips in training.
    """

    def __init__(self, channels: int, hidden: list[int], drop_path: list[float]) -> None:
        super().__init__()
        self.cpe = PositionalConv(channels)
        self.crpe = FrequencyFilter(channels)
        self.MHCA_layers = nn.ModuleList(TokenLayer(channels, width, rate) for width, rate in zip(hidden, drop_path, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        matrices = self.crpe.low_pass.matrices(x.shape[2], x.shape[3])
        for layer in self.MHCA_layers:
            x = layer(self.cpe(x), self.crpe, matrices)
        return x
