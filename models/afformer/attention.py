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

    Every channel is averaged over the bins of all four grids at once, and ``mask`` keeps those of its own: so each product is one of a map
    with a matrix on its right, like that of a linear layer, which quantizers and TensorRT take.

    Args:
        channels: C of the map, a multiple of 4.
    """

    bins: Tensor
    mask: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        own = torch.block_diag(*(torch.ones(bins, bins) for bins in LOW_PASS))
        grid = torch.arange(len(LOW_PASS)).repeat_interleave(torch.tensor(LOW_PASS))
        quarter = torch.arange(len(LOW_PASS)).repeat_interleave(channels // len(LOW_PASS))
        self.register_buffer("bins", torch.tensor(LOW_PASS), persistent=False)
        self.register_buffer("mask", own * (grid[:, None] == quarter[:, None, None]), persistent=False)

    def matrices(self, height: int, width: int) -> tuple[Tensor, ...]:
        """Right factors of ``forward``: of width and height down to bins, of height and width back."""
        (down_height, up_height), (down_width, up_width) = self._axis(height), self._axis(width)
        return down_width, down_height, up_height, up_width

    def forward(self, x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        down_width, down_height, up_height, up_width = (matrix.to(x.dtype) for matrix in matrices)
        pooled = (x @ down_width).transpose(2, 3) @ down_height
        spread = ((pooled * self.mask.to(x.dtype)) @ up_height).transpose(2, 3) @ up_width
        return F.relu(spread)

    def _axis(self, size: int) -> tuple[Tensor, Tensor]:
        """Matrices (size, bins of all grids) and back."""
        most = max(LOW_PASS)
        down, up = pooling_matrices(self.bins, most, size), bilinear_matrices(self.bins, most, size)
        rows = [down[grid, :bins] for grid, bins in enumerate(LOW_PASS)]
        columns = [up[grid, :, :bins] for grid, bins in enumerate(LOW_PASS)]
        return torch.cat(rows).transpose(0, 1), torch.cat(columns, 1).transpose(0, 1)


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
        attended = (self.scale * (context @ q)).flatten(1, 2).view_as(q_map)
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
