"""Pooling by matrices against torch's own adaptive pooling and interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segc.models.pooling import bilinear_matrices, pooling_matrices

BINS = torch.tensor([1, 2, 3, 6])


@pytest.mark.parametrize("size", [1, 2, 5, 6, 11, 32, 45])
def test_matrices_are_adaptive_pooling(size: int) -> None:
    axis = torch.randn(1, 4, size)
    matrices = pooling_matrices(BINS, 6, size)
    for matrix, bins in zip(matrices, BINS.tolist(), strict=True):
        assert torch.allclose(axis @ matrix.T[:, :bins], F.adaptive_avg_pool1d(axis, bins), atol=1e-6)
        assert not matrix[bins:].any()


@pytest.mark.parametrize("size", [1, 4, 6, 11, 64])
def test_matrices_are_bilinear_interpolation(size: int) -> None:
    matrices = bilinear_matrices(BINS, 6, size)
    for matrix, bins in zip(matrices, BINS.tolist(), strict=True):
        grid = torch.randn(1, 4, bins)
        assert torch.allclose(grid @ matrix[:, :bins].T, F.interpolate(grid, size, mode="linear", align_corners=False), atol=1e-5)
        assert not matrix[:, bins:].any()
