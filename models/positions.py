"""Position encodings of maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_encoding(x: Tensor) -> Tensor:
    """Sines and cosines of a map's rows, then of its columns, in wavelengths from 2 pi to 10000 * 2 pi (DETR's, normalised to 2 pi).

    Args:
        x: the map (N, C, H, W), C a multiple of 4; its size, type and device are taken.

    Returns:
        (C, H, W).
    """
    channels, height, width = x.shape[1:]
    rows, columns = (_axis(size, channels // 2, x) for size in (height, width))
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


def _axis(size: int, channels: int, like: Tensor) -> Tensor:
    """(channels, size): sines in the even channels, cosines in the odd ones."""
    place = torch.arange(1, size + 1, device=like.device, dtype=torch.float32) / (size + 1e-6) * (2 * math.pi)
    pair = torch.arange(0, channels, 2, device=like.device, dtype=torch.float32)
    angles = place / (10000 ** (pair / channels))[:, None]
    return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1).to(like.dtype)
