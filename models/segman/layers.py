"""The parts that SegMAN's encoder and decoder share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn

from segc.ops.checks import DIRECTIONS
from segc.ops.scan import cross_selective_scan

NORM_EPS = 1e-6


def depthwise(channels: int, kernel_size: int) -> nn.Conv2d:
    """A depthwise convolution with bias that keeps the size of the map."""
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position by itself."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learnt scale and shift of every channel."""

    def __init__(self, channels: int, init_value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1, 1), init_value))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map (N, C, H, W)."""
        return x * self.weight[:, 0] + self.bias[:, None, None]


class ConvFfn(nn.Module):
    """Feed-forward network with a residual depthwise 3x3 convolution after the activation."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        hidden = F.gelu(self.fc1(x))
        return self.fc2(hidden + self.dwconv(hidden))


class SelectiveScan2d(nn.Module):
    """SS2D (VMamba, arXiv 2401.10166) without gate and projections: scan a map along four directions and sum.

    The projections of the step size and of B and C are pointwise, so they are taken on the map once, before any direction is laid out;
    ``cross_selective_scan`` then needs no permuted copy.

    Args:
        channels: C of the map.
        d_state: N, the size of each channel's state.
        dt_rank: rank of the step size's projection; None takes ceil(C / 16).
    """

    def __init__(self, channels: int, d_state: int = 1, dt_rank: int | None = None) -> None:
        super().__init__()
        self.d_state = d_state
        rank = dt_rank or math.ceil(channels / 16)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS * (rank + 2 * d_state), channels, 1))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, channels, rank))
        self.dt_projs_bias = nn.Parameter(_step_bias(DIRECTIONS, channels))
        self.A_logs = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(DIRECTIONS * channels, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * channels))
        nn.init.uniform_(self.x_proj_weight, -(channels**-0.5), channels**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        directions, _, rank = self.dt_projs_weight.shape
        projected = F.conv2d(x, self.x_proj_weight[..., None])
        steps, b, c = projected.unflatten(1, (directions, -1)).split([rank, self.d_state, self.d_state], 2)
        weight = self.dt_projs_weight.flatten(0, 1)[..., None, None]
        delta = F.conv2d(steps.flatten(1, 2), weight, groups=directions)
        decay = -self.A_logs.float().exp()
        bias = self.dt_projs_bias.float().flatten()
        return cross_selective_scan(x, delta, decay, b, c, self.Ds.float(), bias, delta_softplus=True)


def _step_bias(directions: int, channels: int, shortest: float = 1e-3, longest: float = 1e-1) -> Tensor:
    """Biases whose softplus is log-uniform between the shortest and the longest step (Mamba, arXiv 2312.00752, section 3.6)."""
    steps = torch.exp(torch.rand(directions, channels) * math.log(longest / shortest) + math.log(shortest))
    return steps + torch.log(-torch.expm1(-steps))


class MixerBlock(nn.Module):
    """Positional convolution, token mixer, positional convolution, feed-forward network, each residual.

    Args:
        channels: C of the map.
        token_mixer: a module (N, C, H, W) -> the same.
        hidden: width of the feed-forward network.
        drop_path: share of samples whose residual branches are skipped in training.
        layer_scale: first value of the branches' learnt scale; None has none.
    """

    def __init__(
        self, channels: int, token_mixer: nn.Module, hidden: int, drop_path: float = 0.0, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        self.cpe1 = depthwise(channels, 3)
        self.norm1 = ChannelNorm(channels)
        self.token_mixer = token_mixer
        self.cpe2 = depthwise(channels, 3)
        self.norm2 = ChannelNorm(channels)
        self.mlp = ConvFfn(channels, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.layer_scale1, self.layer_scale2 = (
            nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale) for _ in range(2)
        )

    def forward(self, x: Tensor, *position: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape; ``position`` is handed to the token mixer."""
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.layer_scale1(self.token_mixer(self.norm1(x), *position)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))
