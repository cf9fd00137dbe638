"""Random arguments of the scans, and the float64 reference with its gradients; shared by the interpreter's tests and the GPU's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segc.ops import reference

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@dataclass(frozen=True)
class Case:
    """A scan: ``size`` is (length,) of a plain one or (height, width) of a crossed one."""

    size: tuple[int, ...]
    batch: int = 1
    groups: int = 1
    channels: int = 2
    states: int = 1
    dtype: str = "float32"
    reverse: bool = False
    softplus: bool = True
    extras: bool = True

    @property
    def cross(self) -> bool:
        return len(self.size) == 2

    @property
    def flags(self) -> tuple[bool, ...]:
        return (self.softplus,) if self.cross else (self.softplus, self.reverse)

    def arguments(self, device: str = "cpu", seed: int = 0) -> list[Tensor | None]:
        """u, delta, A, B, C, D, delta_bias; states decay by a factor from about 0.3 to 1 a step."""
        random = torch.Generator().manual_seed(seed)
        dtype = getattr(torch, self.dtype)
        weights = torch.float64 if dtype == torch.float64 else torch.float32
        directions = 4 if self.cross else 1
        heads, groups = directions * self.groups * self.channels, directions * self.groups

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random, dtype=torch.float64)

        u, delta = normal(self.batch, self.groups * self.channels, *self.size), 0.5 * normal(self.batch, heads, *self.size)
        delta = delta - 1 if self.softplus else delta.abs()
        B, C = (normal(self.batch, groups, self.states, *self.size) for _ in range(2))
        A = -torch.rand(heads, self.states, generator=random, dtype=torch.float64) * 2 - 0.02
        maps = [value.to(dtype) for value in (u, delta)] + [A.to(weights)] + [value.to(dtype) for value in (B, C)]
        extras = [normal(heads).to(weights), 0.3 * normal(heads).abs().to(weights)] if self.extras else [None, None]
        return [value if value is None else value.to(device) for value in (*maps, *extras)]

    def grad(self, y: Tensor) -> Tensor:
        """A gradient of the output, in its type."""
        return torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype).to(y.device)


def reference_results(case: Case, arguments: list[Tensor | None], grad: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """Output and gradients of the definition, in float64 on the CPU."""
    inputs = [value if value is None else value.detach().cpu().double().requires_grad_() for value in arguments]
    scan = reference.cross_selective_scan if case.cross else reference.selective_scan
    y = scan(*inputs, *case.flags)  # type: ignore[arg-type]
    gradients = iter(torch.autograd.grad(y, [value for value in inputs if value is not None], grad.cpu().double()))
    return y.detach(), [None if value is None else next(gradients) for value in inputs]


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference as a part of the largest value wanted; the difference itself where only zeros are wanted."""
    largest = float(wanted.abs().max())
    return float((got.cpu().double() - wanted.cpu()).abs().max()) / (largest or 1.0)
