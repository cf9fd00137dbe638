"""Scans for the CPU's tests: inputs of any shape, type and stride, and how far a face may lie from the definition in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from segc.ops.reference import accumulation_dtype

# Largest error of an output or gradient, as a fraction of the largest value of the tensor (or of 1): some units in the last place.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@dataclass(frozen=True)
class Case:
    """Shape, type and options of a scan; with a ``height``, of maps of height x length that are scanned along four directions."""

    batch: int
    groups: int
    members: int
    states: int
    length: int
    dtype: torch.dtype = torch.float64
    softplus: bool = True
    reverse: bool = False
    weights: bool = True
    strided: bool = False
    seed: int = 0
    height: int = 0

    @property
    def flags(self) -> tuple[bool, ...]:
        """The options, as the operator takes them."""
        return (self.softplus,) if self.height else (self.softplus, self.reverse)


def cases(cross: bool = False, most: int = 600) -> st.SearchStrategy[Case]:
    """Cases around every edge: one step, fewer steps than a vector has lanes, less and more than a tile."""
    small = st.integers(1, 3)
    return st.builds(
        Case,
        batch=small,
        groups=st.just(4) if cross else small,
        members=small,
        states=st.integers(1, 5),
        length=st.integers(1, 40) if cross else st.one_of(st.integers(1, 40), st.integers(1, most)),
        dtype=st.sampled_from(list(TOLERANCE)),
        softplus=st.booleans(),
        reverse=st.booleans(),
        weights=st.booleans(),
        strided=st.booleans(),
        seed=st.integers(0, 1000),
        height=st.integers(1, 20) if cross else st.just(0),
    )


def inputs(case: Case) -> list[Tensor | None]:
    """u, delta, A, B, C, D and delta_bias of a case; the state decays, as in a trained network."""
    generator = torch.Generator().manual_seed(case.seed)
    channels, work = case.groups * case.members, accumulation_dtype(case.dtype)
    space = (case.height, case.length) if case.height else (case.length,)
    step = 2 if case.strided else 1

    def normal(*shape: int) -> Tensor:
        wide = torch.randn(*shape[:-1], shape[-1] * step, generator=generator, dtype=torch.float64)
        return wide.to(case.dtype)[..., ::step]

    u = normal(case.batch, case.members if case.height else channels, *space)
    delta = normal(case.batch, channels, *space) * 0.5
    delta = delta - 1 if case.softplus else delta.abs()
    A, D, bias = (torch.rand(channels, n, generator=generator, dtype=torch.float64).to(work) for n in (case.states, 1, 1))
    B, C = (normal(case.batch, case.groups, case.states, *space) for _ in "BC")
    return [u, delta, -2 * A, B, C, D[:, 0] if case.weights else None, bias[:, 0] if case.weights else None]


def in_double(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """The same values in float64."""
    return [None if tensor is None else tensor.double() for tensor in tensors]


def gradients(function: Any, tensors: list[Tensor | None], flags: tuple[bool, ...]) -> list[Tensor]:
    """The output, then the gradients of the tensors that are there, of a sum weighted with a fixed wave that every type can hold."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*leaves, *flags)
    wave = torch.sin(torch.arange(y.numel())).view_as(y).bfloat16().to(y.dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, given, wave)]


def assert_near(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    """Each within the type's tolerance of the largest expected value (or of 1, where all are smaller)."""
    for number, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert mine.shape == theirs.shape
        error = (mine.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        assert error <= TOLERANCE[dtype], f"tensor {number}: {float(error):.2e}"
