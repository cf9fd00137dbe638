"""The scan on a GPU: buffers and launches of the Triton kernels, forward and backward, plain and crossed."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from segc.ops.triton_kernels.launch import Launch, multiprocessors, run
from segc.ops.triton_kernels.scan_backward import _scan_backward
from segc.ops.triton_kernels.scan_forward import _chain_states, _scan_rows, _scan_tiles, _segment_states
from segc.ops.triton_kernels.scan_plan import Backward, Rows, Shape, Tiles, plan_backward, plan_forward, power_of_two

_CHAIN = 1024  # numbers one program of the chain holds
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Inputs:
    """Arguments of a scan, contiguous, with the shape they describe."""

    shape: Shape
    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    bias: Tensor | None
    softplus: bool

    def common(self) -> dict[str, Any]:
        """The arguments that all tile kernels take under one name."""
        shape = self.shape
        return {
            "u_ptr": self.u,
            "delta_ptr": self.delta,
            "A_ptr": self.A,
            "B_ptr": self.B,
            "C_ptr": self.C,
            "bias_ptr": self.bias,
            "groups": shape.groups,
            "channels": shape.channels,
            "states": shape.states,
            "SOFTPLUS": self.softplus,
        }

    def walks(self) -> dict[str, Any]:
        """The map and the directions over it, as the tile kernels take them."""
        shape = self.shape
        return {"height": shape.height, "width": shape.width, "FIRST": shape.first, "DIRECTIONS": shape.directions}


def plain_inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool, reverse: bool
) -> Inputs:
    """Arguments of ``segc::selective_scan``: a map of height 1."""
    batch, channels, length = u.shape
    shape = Shape(batch, B.shape[1], channels // B.shape[1], A.shape[1], 1, length, first=2 if reverse else 0)
    return Inputs(shape, *_contiguous(u, delta, A, B, C), _optional(D), _optional(bias), softplus)


def cross_inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, softplus: bool
) -> Inputs:
    """Arguments of ``segc::cross_selective_scan``: one group, four directions."""
    batch, channels, height, width = u.shape
    shape = Shape(batch, 1, channels, A.shape[1], height, width, directions=4)
    return Inputs(shape, *_contiguous(u, delta, A, B, C), _optional(D), _optional(bias), softplus)


def _contiguous(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return u.contiguous(), delta.contiguous(), A.contiguous(), B.contiguous(), C.contiguous()


def _optional(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def forward(inputs: Inputs, plan: Rows | Tiles | None = None) -> Tensor:
    """Scan; ``plan`` overrides the choice of ``plan_forward``."""
    y, launches = forward_launches(inputs, plan or plan_forward(inputs.shape, multiprocessors(inputs.u.device)))
    run(launches, inputs.u.device)
    return y


def backward(inputs: Inputs, grad: Tensor, plan: Backward | None = None) -> Gradients:
    """Gradients of u, delta, A, B, C, D, delta_bias, each as its input; empty where D or delta_bias is None."""
    plan = plan or plan_backward(inputs.shape, multiprocessors(inputs.u.device))
    buffers, launches = backward_launches(inputs, grad.contiguous(), plan)
    run(launches, inputs.u.device)
    return buffers.gradients(inputs)


def forward_launches(inputs: Inputs, plan: Rows | Tiles) -> tuple[Tensor, list[Launch]]:
    """The output and the launches that fill it."""
    y = torch.empty_like(inputs.u)
    if isinstance(plan, Rows):
        return y, [_rows_launch(inputs, y, plan)]
    total, state, _ = _state_buffers(inputs, plan, adjoint=False)
    launches = [_states_launch(inputs, plan, total, state), _chain_launch(inputs, plan, total, state, reverse=False)]
    arguments = inputs.common() | inputs.walks() | _tile(plan)
    arguments |= {"D_ptr": inputs.D, "state_ptr": state, "y_ptr": y, "segments": plan.segments(inputs.shape)}
    return y, [*launches, Launch(_scan_tiles, (_tile_programs(inputs.shape, plan),), arguments, plan.warps)]


def _rows_launch(inputs: Inputs, y: Tensor, plan: Rows) -> Launch:
    shape = inputs.shape
    arguments = inputs.common() | {"D_ptr": inputs.D, "y_ptr": y, "length": shape.width, "REVERSE": shape.first >= 2}
    arguments |= {"R": plan.channels, "N": power_of_two(shape.states), "T": plan.length, "STAGES": plan.stages}
    programs = shape.batch * shape.groups * ceil(shape.channels / plan.channels)
    return Launch(_scan_rows, (programs,), arguments, plan.warps)


def _tile(plan: Tiles) -> dict[str, int]:
    return {"R": plan.channels, "TH": plan.height, "TW": plan.width}


def _tile_programs(shape: Shape, plan: Tiles) -> int:
    return shape.batch * shape.groups * ceil(shape.channels / plan.channels) * plan.count(shape)


def _state_buffers(inputs: Inputs, plan: Tiles, adjoint: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Total step of each segment, and its state and adjoint for every n."""
    rows, states, segments = inputs.shape.rows, inputs.shape.states, plan.segments(inputs.shape)
    empty = inputs.A.new_empty
    return empty(rows, segments), empty(rows, states, segments), empty(rows, states, segments) if adjoint else None


def _states_launch(
    inputs: Inputs, plan: Tiles, total: Tensor, state: Tensor, adjoint: Tensor | None = None, grad: Tensor | None = None
) -> Launch:
    arguments = inputs.common() | inputs.walks() | _tile(plan)
    arguments |= {"dy_ptr": grad, "total_ptr": total, "state_ptr": state, "adjoint_ptr": adjoint}
    arguments["segments"] = plan.segments(inputs.shape)
    return Launch(_segment_states, (_tile_programs(inputs.shape, plan),), arguments, plan.warps)


def _chain_launch(inputs: Inputs, plan: Tiles, total: Tensor, state: Tensor, reverse: bool) -> Launch:
    shape = inputs.shape
    segments, rows = plan.segments(shape), shape.rows * shape.states
    block = min(_CHAIN, max(power_of_two(segments), 32))
    arguments = {
        "total_ptr": total,
        "A_ptr": inputs.A,
        "state_ptr": state,
        "rows": rows,
        "heads": inputs.A.shape[0],
        "states": shape.states,
        "segments": segments,
        "row_segments": shape.height * plan.across(shape),
        "column_segments": shape.width * plan.down(shape),
        "FIRST": shape.first,
        "DIRECTIONS": shape.directions,
        "REVERSE": reverse,
        "R": _CHAIN // block,
        "S": block,
    }
    return Launch(_chain_states, (ceil(rows / (_CHAIN // block)),), arguments)


@dataclass(frozen=True)
class Buffers:
    """What the backward kernel writes: whole gradients of u and delta, parts of the others (their first axes are summed at the end)."""

    du: Tensor
    ddelta: Tensor
    dA: Tensor  # (tiles, batch, channels, states)
    dB: Tensor  # (splits, ...)
    dC: Tensor
    dD: Tensor  # (tiles, batch, channels)
    dbias: Tensor

    @staticmethod
    def new(inputs: Inputs, plan: Backward) -> Buffers:
        """Uninitialised: every element is written. du and ddelta take the work type where passes add up in them."""
        shape, A = inputs.shape, inputs.A
        passes = ceil(shape.states / plan.states)
        rows, splits = (plan.tiles.count(shape), shape.batch, A.shape[0]), ceil(shape.channels / _split(shape, plan))
        return Buffers(
            du=torch.empty_like(inputs.u, dtype=A.dtype if passes * shape.directions > 1 else None),
            ddelta=torch.empty_like(inputs.delta, dtype=A.dtype if passes > 1 else None),
            dA=A.new_empty((*rows, shape.states)),
            dB=A.new_empty((splits, *inputs.B.shape)),
            dC=A.new_empty((splits, *inputs.C.shape)),
            dD=A.new_empty(rows if inputs.D is not None else 0),
            dbias=A.new_empty(rows if inputs.bias is not None else 0),
        )

    def gradients(self, inputs: Inputs) -> Gradients:
        """Sum the parts, in a fixed order, and give each gradient its input's type."""
        dD, dbias = (part.sum((0, 1)) if part.numel() else part for part in (self.dD, self.dbias))
        dB, dC = (part.sum(0).to(inputs.B.dtype) for part in (self.dB, self.dC))
        du, ddelta = self.du.to(inputs.u.dtype), self.ddelta.to(inputs.u.dtype)
        return du, ddelta, self.dA.sum((0, 1)), dB, dC, dD, dbias


def _split(shape: Shape, plan: Backward) -> int:
    """Channels of one program."""
    return ceil(shape.channels / plan.splits)


def backward_launches(inputs: Inputs, grad: Tensor, plan: Backward) -> tuple[Buffers, list[Launch]]:
    """The gradient buffers and the launches that fill them."""
    shape, tiles = inputs.shape, plan.tiles
    total, state, adjoint = _state_buffers(inputs, tiles, adjoint=True)
    assert adjoint is not None
    buffers = Buffers.new(inputs, plan)
    arguments = inputs.common() | inputs.walks() | {"TH": tiles.height, "TW": tiles.width, "N": plan.states}
    arguments |= {f"{name}_ptr": value for name, value in vars(buffers).items()}
    arguments |= {"D_ptr": inputs.D, "dy_ptr": grad, "state_ptr": state, "adjoint_ptr": adjoint, "segments": tiles.segments(shape)}
    arguments |= {"batches": shape.batch, "split_channels": _split(shape, plan), "PASSES": ceil(shape.states / plan.states)}
    programs = shape.batch * shape.groups * tiles.count(shape) * buffers.dB.shape[0]
    return buffers, [
        _states_launch(inputs, tiles, total, state, adjoint, grad),
        _chain_launch(inputs, tiles, total, state, reverse=False),
        _chain_launch(inputs, tiles, total, adjoint, reverse=True),
        Launch(_scan_backward, (programs,), arguments, tiles.warps),
    ]
