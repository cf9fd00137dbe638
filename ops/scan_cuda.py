"""The scans of CUDA tensors: the four operators of ``segc.ops.scan`` on the Triton kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segc.ops import gpu

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def selective_scan(*arguments: Any) -> Tensor:
    """``segc::selective_scan`` on a GPU."""
    kernels = gpu.kernels("scan", "selective_scan")
    return kernels.forward(kernels.plain_inputs(*arguments))


def selective_scan_backward(grad: Tensor, *arguments: Any) -> Gradients:
    """``segc::selective_scan_backward`` on a GPU."""
    kernels = gpu.kernels("scan", "selective_scan")
    return kernels.backward(kernels.plain_inputs(*arguments), grad)


def cross_selective_scan(*arguments: Any) -> Tensor:
    """``segc::cross_selective_scan`` on a GPU."""
    kernels = gpu.kernels("scan", "cross_selective_scan")
    return kernels.forward(kernels.cross_inputs(*arguments))


def cross_selective_scan_backward(grad: Tensor, *arguments: Any) -> Gradients:
    """``segc::cross_selective_scan_backward`` on a GPU."""
    kernels = gpu.kernels("scan", "cross_selective_scan")
    return kernels.backward(kernels.cross_inputs(*arguments), grad)
