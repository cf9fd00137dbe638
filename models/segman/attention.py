"""SegMAN's token mixers: neighbourhood attention followed by a state-space scan, or by global attention in the last stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segc.models.segman.layers import ChannelNorm, SelectiveScan2d, depthwise
from segc.ops.attention import neighborhood_attention_2d


class RotaryPosition2d(nn.Module):
    """Rotary position encoding of a map: half of the head's channels turn with the row, half with the column.

    The angles are 10000^(-i), i evenly spaced from 0 to 1; neighbouring channels form the pairs that are rotated.
    """

    angle: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, head_dim // 4)
        self.register_buffer("angle", (10000.0**-exponents).repeat_interleave(2))

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (height, width, 1, head_dim)."""
        rows = torch.arange(height, device=self.angle.device)[:, None] * self.angle
        columns = torch.arange(width, device=self.angle.device)[:, None] * self.angle
        turns = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1)[:, :, None]
        return turns.cos(), turns.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (even, odd) of x (..., head_dim)."""
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    return x * cos + turned * sin


class WindowAttention(nn.Module):
    """The part both mixers share: rotated queries and keys, neighbourhood attention with relative position bias, lepe, projection.

    Args:
        channels: C of the map, a multiple of the heads.
        heads: number of heads.
        kernel_size: of the window, odd.
    """

    def __init__(self, channels: int, heads: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.lepe = depthwise(channels, 5)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.rpb = nn.ParameterList([torch.zeros(heads, 2 * kernel_size - 1, 2 * kernel_size - 1)])

    @property
    def heads(self) -> int:
        """Number of heads; pruning removes some, and with them channels inside the attention."""
        return int(self.rpb[0].shape[0])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape; cos and sin as ``RotaryPosition2d`` gives them."""
        qkv = self.qkv(x)
        q, k, v = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 0, 4, 5, 2, 3)
        q, k = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(q.dtype), sin.to(q.dtype))
        local = neighborhood_attention_2d(q, k, v, self.kernel_size, scale=self.scale, rpb=self.rpb[0])
        mixed = self.mix(q, k, local)
        return self.proj(mixed + self.lepe(qkv[:, -self.lepe.in_channels :]))

    def mix(self, q: Tensor, k: Tensor, local: Tensor) -> Tensor:
        """From what the windows gave (N, H, W, heads, head_dim) to the map (N, C, H, W)."""
        raise NotImplementedError


class LocalScanMixer(WindowAttention):
    """Local attention and state space (LASS, section 3.2): the windows' result is scanned along four directions and added to itself."""

    def __init__(self, channels: int, heads: int, kernel_size: int) -> None:
        super().__init__(channels, heads, kernel_size)
        self.dwconv = nn.Sequential(depthwise(channels, 3), nn.BatchNorm2d(channels))
        self.ssm = SelectiveScan2d(channels)
        self.norm = ChannelNorm(channels)

    def mix(self, q: Tensor, k: Tensor, local: Tensor) -> Tensor:
        """Local map plus its scan."""
        local = local.permute(0, 3, 4, 1, 2).flatten(1, 2)
        return self.norm(self.ssm(F.silu(self.dwconv(local)))) + local


class GlobalMixer(WindowAttention):
    """Global attention over what the windows gave, with the windows' queries and keys: the last stage.

    The bias table holds every pair of the tokens of a pre-training image. For another number of tokens it is resized as a picture
    of tokens x tokens (bicubic), as the published network does.

    Args:
        tokens: number of tokens of the pre-training image at this stage.
    """

    def __init__(self, channels: int, heads: int, kernel_size: int, tokens: int) -> None:
        super().__init__(channels, heads, kernel_size)
        self.rpb.append(nn.Parameter(torch.zeros(heads, tokens, tokens)))

    def mix(self, q: Tensor, k: Tensor, local: Tensor) -> Tensor:
        """Attend from every token to every token."""
        height, width = local.shape[1], local.shape[2]
        q, k, v = (tensor.flatten(1, 2).transpose(1, 2) for tensor in (q, k, local))
        bias = self.bias(height * width).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return mixed.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))

    def bias(self, tokens: int) -> Tensor:
        """Bias (1, heads, tokens, tokens) of every pair of tokens: the table itself for the pre-training image.

        Resized at every size: a graph of any input size cannot ask which one it has.
        """
        return F.interpolate(self.rpb[1][None], (tokens, tokens), mode="bicubic", align_corners=False)
