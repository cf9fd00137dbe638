"""Selective scan in plain torch, many chunks at a time: for machines without a compiler, and for devices without a kernel of ours.

A sequence is cut into about sqrt(length) chunks. All of them step together, once from zero to learn where each ends and, when the
chunks' beginnings are known from that, once more from there. Nothing is divided by a product of decays and no logarithm is summed,
so that nothing overflows that does not overflow in the definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segc.ops import reference
from segc.ops.checks import DIRECTIONS

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Chunks:
    """How sequences of ``length`` steps become ``count`` chunks of ``steps`` steps."""

    length: int
    steps: int
    count: int

    @classmethod
    def of(cls, length: int) -> Chunks:
        steps = math.isqrt(length - 1) + 1
        return cls(length, steps, -(-length // steps))

    def split(self, x: Tensor) -> Tensor:
        """(..., length) -> (steps, ..., count); what is missing at the end is zero: a step of size zero changes no state."""
        padded = F.pad(x, (0, self.steps * self.count - self.length))
        return padded.unflatten(-1, (self.count, self.steps)).movedim(-1, 0).contiguous()

    def join(self, x: Tensor) -> Tensor:
        """(steps, ..., count) -> (..., length)."""
        return x.movedim(0, -1).flatten(-2)[..., : self.length]


@dataclass(frozen=True)
class Inputs:
    """A scan's inputs in the accumulation dtype, forwards in time and in chunks: (steps, batch, groups, members or 1, count)."""

    chunks: Chunks
    u: Tensor
    step: Tensor
    slope: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    def decay(self, n: int) -> Tensor:
        """``exp(delta A)`` of state n."""
        return torch.exp(self.step * self.A[..., n, None])

    def state(self, tensor: Tensor, n: int) -> Tensor:
        """B or C of state n, for all members of a group."""
        return tensor[:, :, :, n, None]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """The forward scan; arguments as in ``segc.ops.scan.selective_scan``, B and C with four axes."""
    scan = _prepare(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    drive = scan.step * scan.u
    y = torch.zeros_like(scan.u)
    for n in range(A.shape[1]):
        states = _states(scan.decay(n), drive * scan.state(scan.B, n))
        y.addcmul_(states[1:], scan.state(scan.C, n))
    out = _in_time(scan.chunks.join(y).reshape(u.shape), reverse)
    return (out if D is None else out + D[:, None] * u).to(u.dtype).contiguous()


def selective_scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Gradients:
    """Gradients of u, delta, A, B, C, D and delta_bias (the last two empty where there is none); the states are computed again.

    With ``g_t = C_t dy_t + a_(t+1) g_(t+1)``: ``du = g delta B``, ``dB = g delta u``, ``dC = dy h``, and ``g a h_(t-1)`` is the
    gradient of ``delta A``.
    """
    scan = _prepare(u, delta, A, B, C, delta_bias, delta_softplus, reverse)
    dy = scan.chunks.split(_in_time(grad.to(scan.u.dtype), reverse).unflatten(1, scan.A.shape[:2]))
    drive = scan.step * scan.u
    of_step, of_drive = torch.zeros_like(drive), torch.zeros_like(drive)
    of_A, of_B, of_C = torch.zeros_like(scan.A), torch.zeros_like(scan.B), torch.zeros_like(scan.C)
    for n in range(A.shape[1]):
        decay, b = scan.decay(n), scan.state(scan.B, n)
        states = _states(decay, drive * b)
        g = _adjoint(decay, dy * scan.state(scan.C, n))
        of_exponent = g * states[:-1] * decay
        of_A[..., n] = (of_exponent * scan.step).sum((0, 1, 4))
        of_step.addcmul_(of_exponent, scan.A[..., n, None])
        of_drive.addcmul_(g, b)
        of_B[:, :, :, n] = (g * drive).sum(3)
        of_C[:, :, :, n] = (dy * states[1:]).sum(3)
    of_step.addcmul_(of_drive, scan.u).mul_(scan.slope)
    du, ddelta, dB, dC = (_in_time(scan.chunks.join(x), reverse) for x in (of_drive * scan.step, of_step, of_B, of_C))
    du, ddelta = du.reshape(u.shape), ddelta.reshape(u.shape)
    if D is not None:
        du = du + D[:, None] * grad
    dD = A.new_empty(0) if D is None else (grad.to(D.dtype) * u).sum((0, 2))
    dbias = A.new_empty(0) if delta_bias is None else ddelta.sum((0, 2))
    du, ddelta, dB, dC = (x.to(u.dtype).contiguous() for x in (du, ddelta, dB, dC))
    return du, ddelta, of_A.reshape(A.shape), dB, dC, dD, dbias


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """Cross scan, selective scan and cross merge one after the other; arguments as in ``segc.ops.scan.cross_selective_scan``."""
    height, width = u.shape[2:]
    y = selective_scan(*_sequences(u, delta, A, B, C), D, delta_bias, delta_softplus, False)
    return reference.cross_merge(y.unflatten(1, (DIRECTIONS, -1)), height, width).to(u.dtype).contiguous()


def cross_selective_scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Gradients:
    """Gradients of u, delta, A, B, C, D and delta_bias (the last two empty where there is none), in map order."""
    height, width = u.shape[2:]
    sequences = _sequences(u, delta, A, B, C)
    dy = reference.cross_scan(grad.to(sequences[0].dtype)).flatten(1, 2)
    du, ddelta, dA, dB, dC, dD, dbias = selective_scan_backward(dy, *sequences, D, delta_bias, delta_softplus, False)
    ddelta = _as_maps(ddelta.unflatten(1, (DIRECTIONS, -1)), height, width).flatten(1, 2)
    dB, dC = (_as_maps(tensor, height, width) for tensor in (dB, dC))
    du = reference.cross_merge(du.unflatten(1, (DIRECTIONS, -1)), height, width)
    du, ddelta, dB, dC = (tensor.to(u.dtype).contiguous() for tensor in (du, ddelta, dB, dC))
    return du, ddelta, dA, dB, dC, dD, dbias


def _sequences(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs of the one scan over four directions, in the accumulation dtype: the sum over directions is rounded once."""
    work = reference.accumulation_dtype(u.dtype)
    x = reference.cross_scan(u.to(work))
    maps = (delta.unflatten(1, (DIRECTIONS, -1)), B, C)
    dt, b, c = (reference._along_directions(tensor.to(work)) for tensor in maps)
    return x.flatten(1, 2), dt.flatten(1, 2), A, b, c


def _as_maps(x: Tensor, height: int, width: int) -> Tensor:
    """(batch, 4, n, length), each in its direction's order -> (batch, 4, n, height, width)."""
    rows, columns = x[:, ::2], x[:, 1::2]
    rows = torch.stack([rows[:, 0], rows[:, 1].flip(-1)], 1).unflatten(-1, (height, width))
    columns = torch.stack([columns[:, 0], columns[:, 1].flip(-1)], 1).unflatten(-1, (width, height)).transpose(-2, -1)
    return torch.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], 1)


def _prepare(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, bias: Tensor | None, softplus: bool, reverse: bool) -> Inputs:
    work, groups = reference.accumulation_dtype(u.dtype), B.shape[1]
    chunks = Chunks.of(u.shape[2])
    x, dt, b, c = (_in_time(tensor.to(work), reverse) for tensor in (u, delta, B, C))
    dt = dt if bias is None else dt + bias[:, None]
    slope = torch.where(dt > 20, 1, torch.sigmoid(dt)) if softplus else torch.ones_like(dt)
    dt = F.softplus(dt) if softplus else dt
    x, dt, slope = (chunks.split(tensor.unflatten(1, (groups, -1))) for tensor in (x, dt, slope))
    return Inputs(chunks, x, dt, slope, A.unflatten(0, (groups, -1)), chunks.split(b), chunks.split(c))


def _in_time(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(-1) if reverse else x


def _states(decay: Tensor, drive: Tensor) -> Tensor:
    """The states of ``h_t = decay_t h_(t-1) + drive_t``, (steps + 1, ..., count): what each chunk begins with, and one a step."""
    states = drive.new_empty(drive.shape[0] + 1, *drive.shape[1:])
    states[0] = _beginnings(decay, drive)
    for s in range(drive.shape[0]):
        torch.addcmul(drive[s], decay[s], states[s], out=states[s + 1])
    return states


def _beginnings(decay: Tensor, drive: Tensor) -> Tensor:
    """The state every chunk begins with."""
    end, product = drive[0], decay[0]
    for s in range(1, drive.shape[0]):
        end, product = torch.addcmul(drive[s], decay[s], end), product * decay[s]
    beginnings = [torch.zeros_like(end[..., 0])]
    for q in range(end.shape[-1] - 1):
        beginnings.append(torch.addcmul(end[..., q], product[..., q], beginnings[-1]))
    stacked = torch.stack(beginnings, -1)
    # A product that underflows forgets an infinity, one that overflows makes NaN out of zero: then every step has to be gone.
    return stacked if bool(torch.isfinite(stacked).all()) else _exact_beginnings(decay, drive)


def _exact_beginnings(decay: Tensor, drive: Tensor) -> Tensor:
    state = torch.zeros_like(drive[0, ..., 0])
    beginnings = []
    for q in range(drive.shape[-1]):
        beginnings.append(state)
        for s in range(drive.shape[0]):
            state = torch.addcmul(drive[s, ..., q], decay[s, ..., q], state)
    return torch.stack(beginnings, -1)


def _adjoint(decay: Tensor, drive: Tensor) -> Tensor:
    """``g_t = drive_t + decay_(t+1) g_(t+1)``, by scanning ``decay_t g_t`` from the end."""
    axes = (0, -1)
    later = _states(decay.flip(axes), (decay * drive).flip(axes))[:-1]
    return drive + later.flip(axes)
