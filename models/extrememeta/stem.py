"""A stem of parallel large kernels that is one convolution once trained: a reconstruction, see the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.extrememeta.layers import NORM_EPS


class SeparablePath(nn.Module):
    """Depthwise k x k, pointwise, batch norm: linear in evaluation, and hence a convolution with a bias.

    Args:
        before, after: channels; ``after`` is a multiple of ``before``.
        kernel_size: k, odd.
        stride: of the depthwise convolution.
    """

    def __init__(self, before: int, after: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, groups=before, bias=False)
        self.pointwise = nn.Conv2d(after, after, 1, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        return self.bn(self.pointwise(self.depthwise(x)))

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Weight (after, before, k, k) and bias (after,) of the one convolution that does the same in evaluation."""
        before, size = self.depthwise.groups, self.depthwise.kernel_size
        spatial = self.depthwise.weight.flatten(1).unflatten(0, (before, -1))
        mixing = self.pointwise.weight[:, :, 0, 0].unflatten(1, (before, -1)).transpose(0, 1)
        weight = (mixing @ spatial).transpose(0, 1).unflatten(2, size)
        running_mean, running_var = self.bn.running_mean, self.bn.running_var
        assert running_mean is not None and running_var is not None
        scale = self.bn.weight * (running_var + self.bn.eps).rsqrt()
        return weight * scale[:, None, None, None], self.bn.bias - running_mean * scale


class LargeKernelStem(nn.Module):
    """The sum of parallel paths of different kernels, then PReLU. In evaluation it runs as one convolution of the largest kernel.

    Args:
        before, after: channels; ``after`` is a multiple of ``before``.
        kernel_sizes: of the paths, odd.
        stride: of the stem.

    Raises:
        UserError: no kernel, or an even one.
    """

    def __init__(self, before: int, after: int, kernel_sizes: Sequence[int], stride: int = 2) -> None:
        super().__init__()
        if not kernel_sizes or any(size % 2 == 0 for size in kernel_sizes):
            raise UserError(f"the large-kernel stem got kernels {list(kernel_sizes)}; expected one or more odd sizes.")
        self.stride, self.largest = stride, max(kernel_sizes)
        self.paths = nn.ModuleList(SeparablePath(before, after, size, stride) for size in kernel_sizes)
        self.act = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        if self.training:
            return self.act(torch.stack([path(x) for path in self.paths]).sum(0))
        weight, bias = self.kernel()
        return self.act(F.conv2d(x, weight, bias, self.stride, self.largest // 2))

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Weight (after, before, K, K) of the largest size and bias (after,): what an optical front end would hold."""
        paths: Any = self.paths
        weights, biases = zip(*(path.kernel() for path in paths), strict=True)
        rims = [(self.largest - weight.shape[-1]) // 2 for weight in weights]
        weight = torch.stack([F.pad(weight, (rim,) * 4) for weight, rim in zip(weights, rims, strict=True)]).sum(0)
        return weight, torch.stack(biases).sum(0)
