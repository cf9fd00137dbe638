"""Pooling a map to a grid of any number of bins, and back, as products with small matrices.

``adaptive_avg_pool2d`` to bins that do not divide the map has no ONNX operator and unrolls into hundreds of nodes. A product with a matrix
is one node, exact, and has one form for every size; the matrices depend on the map's size only, so that exporters fold them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pooling_matrices(bins: Tensor, most: int, size: int) -> Tensor:
    """Averages of an axis over adaptive bins: bin i of k covers floor(i size / k) up to ceil((i + 1) size / k).

    Args:
        bins: numbers of bins (L,), integers from 1.
        most: the largest of them.
        size: length of the axis.

    Returns:
        (L, most, size) float32; the rows of a number of bins past its own are zero.
    """
    count = bins[:, None, None]
    index = torch.arange(most, device=bins.device)[:, None]
    place = torch.arange(size, device=bins.device)
    first = torch.div(index * size, count, rounding_mode="floor")
    last = torch.div((index + 1) * size + count - 1, count, rounding_mode="floor")
    inside = (place >= first) & (place < last) & (index < count)
    return inside.float() / (last - first).float()


def bilinear_matrices(bins: Tensor, most: int, size: int) -> Tensor:
    """Bilinear interpolation (half-pixel centres) from bins to an axis, the way back from ``pooling_matrices``.

    Returns:
        (L, size, most) float32; the columns of a number of bins past its own are zero.
    """
    count = bins[:, None, None].float()
    place = (torch.arange(size, device=bins.device)[:, None] + 0.5) * (count / size) - 0.5
    place = torch.minimum(place.clamp(min=0), count - 1)
    return (1 - (place - torch.arange(most, device=bins.device)).abs()).clamp(min=0)
