"""Backward kernel of the scan: a tile recomputes its states and adjoints from those that enter it, and sums gradients without atomics."""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from segc.ops.triton_kernels.scan_device import chain, entering, line_place, step_size, step_slope, tile_place


@triton.jit
def _next_step(rows, columns, height, width, COLUMN: tl.constexpr, REVERSE: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Offset to the step that follows in the walk, and where that step is in the same segment and in the map."""
    STEP: tl.constexpr = -1 if REVERSE else 1
    if COLUMN:
        local = tl.arange(0, TH) + STEP
        follows = ((local >= 0) & (local < TH) & (rows + STEP < height))[:, None] & (columns < width)[None, :]
        offset = STEP * width
    else:
        local = tl.arange(0, TW) + STEP
        follows = (rows < height)[:, None] & ((local >= 0) & (local < TW) & (columns + STEP < width))[None, :]
        offset = STEP
    return offset, follows[None, :, :]


@triton.jit
def _add_to(ptr, value, mask, AGAIN: tl.constexpr, again):
    """Store, or add to what this program stored in an earlier pass."""
    if AGAIN:
        value += tl.load(ptr, mask=mask & again, other=0.0)
    tl.store(ptr, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_of_direction(
    split,
    tile,
    group,
    u_ptr,
    dy_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    state_ptr,
    adjoint_ptr,
    du_ptr,
    ddelta_ptr,
    dA_ptr,
    dB_ptr,
    dC_ptr,
    dD_ptr,
    dbias_ptr,
    batches,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    split_channels,
    K: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    COLUMN: tl.constexpr,
    REVERSE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PASSES: tl.constexpr,
    N: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """One direction of ``_scan_backward``: a pass for every N states, and in it a turn for every channel."""
    work: tl.constexpr = A_ptr.dtype.element_ty
    AXIS: tl.constexpr = 1 if COLUMN else 2
    rows, columns = tile_place(tile, height, width, TH, TW)
    batch, own, plane = group.to(tl.int64) // groups, group % groups, height * width
    place = (rows[:, None] * width + columns[None, :])[None, :, :]
    inside = ((rows < height)[:, None] & (columns < width)[None, :])[None, :, :]
    part = split.to(tl.int64) * batches + batch
    tile_row = (tile.to(tl.int64) * batches + batch) * (DIRECTIONS * groups * channels)
    index, count, exists = line_place(tile, height, width, COLUMN, REVERSE, TH, TW)
    offset, follows = _next_step(rows, columns, height, width, COLUMN, REVERSE, TH, TW)
    for first in range(0, states, N):
        n = first + tl.arange(0, N)
        some = n < states
        state_inside, state_follows = some[:, None, None] & inside, some[:, None, None] & follows
        state_row = ((batch * DIRECTIONS + K) * groups + own) * states + n
        shared = state_row[:, None, None] * plane + place
        B = tl.load(B_ptr + shared, mask=state_inside, other=0.0).to(work)
        C = tl.load(C_ptr + shared, mask=state_inside, other=0.0).to(work)
        dB, dC = tl.zeros((N, TH, TW), work), tl.zeros((N, TH, TW), work)
        for c in range(split * split_channels, tl.minimum((split + 1) * split_channels, channels)):
            head = (K * groups + own) * channels + c
            row = batch * (DIRECTIONS * groups * channels) + head
            u_place = (group.to(tl.int64) * channels + c) * plane + place
            delta_place = row * plane + place
            u = tl.load(u_ptr + u_place, mask=inside, other=0.0).to(work)
            dy = tl.load(dy_ptr + u_place, mask=inside, other=0.0).to(work)
            delta = tl.load(delta_ptr + delta_place, mask=inside, other=0.0).to(work)
            following = tl.load(delta_ptr + delta_place + offset, mask=follows, other=0.0).to(work)
            A = tl.load(A_ptr + head * states + n, mask=some, other=0.0)[:, None, None]
            bias = tl.load(bias_ptr + head) if bias_ptr is not None else 0.0
            dt = step_size(delta, bias, SOFTPLUS)
            base = (row * states + n) * segments

            x = tl.where(state_inside, dt * u * B, 0.0)
            decay = tl.where(state_inside, tl.exp(dt * A), 1.0)
            decay, h = tl.associative_scan((decay, x), AXIS, chain, reverse=REVERSE)
            h += decay * entering(state_ptr, base, some, index, count, exists, -1, AXIS)

            decay = tl.where(state_follows, tl.exp(step_size(following, bias, SOFTPLUS) * A), 1.0)
            g = tl.where(state_inside, dy * C, 0.0)
            decay, g = tl.associative_scan((decay, g), AXIS, chain, reverse=not REVERSE)
            g += decay * entering(adjoint_ptr, base, some, index, count, exists, 1, AXIS)

            dB += g * (dt * u)
            dC += h * dy
            carried = tl.where(state_inside, g * (h - x), 0.0)
            from_input = tl.sum(g * B, 0, keep_dims=True)
            du = dt * from_input
            ddelta = u * from_input + tl.sum(carried * A, 0, keep_dims=True)
            ddelta = tl.where(inside, ddelta * step_slope(delta, bias, SOFTPLUS), 0.0)
            if D_ptr is not None:
                du += tl.where(first == 0, tl.load(D_ptr + head), 0.0) * dy
                tl.store(dD_ptr + tile_row + head, tl.sum(u * dy))
            if bias_ptr is not None:
                _add_to(dbias_ptr + tile_row + head, tl.sum(ddelta), True, PASSES > 1, first > 0)
            tl.store(dA_ptr + (tile_row + head) * states + n, tl.sum(tl.sum(carried * dt, 2), 1), mask=some)
            _add_to(du_ptr + u_place, du, inside, DIRECTIONS * PASSES > 1, K + first > 0)
            _add_to(ddelta_ptr + delta_place, ddelta, inside, PASSES > 1, first > 0)
        partial = (((part * DIRECTIONS + K) * groups + own) * states + n)[:, None, None] * plane + place
        tl.store(dB_ptr + partial, dB, mask=state_inside)
        tl.store(dC_ptr + partial, dC, mask=state_inside)
        tl.debug_barrier()  # what this pass stored to du and ddelta, the next one reads, perhaps in other threads


@triton.jit
def _scan_backward(
    u_ptr,
    dy_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    state_ptr,
    adjoint_ptr,
    du_ptr,
    ddelta_ptr,
    dA_ptr,
    dB_ptr,
    dC_ptr,
    dD_ptr,
    dbias_ptr,
    batches,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    split_channels,
    FIRST: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PASSES: tl.constexpr,
    N: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """Gradients of one tile for some channels of a group.

    Passes over the directions and over N states at a time; in each, the gradients of B and C are summed over the channels in registers
    and stored as this split's part. du and ddelta, which sum over passes, are owned by this program and added to in order.
    """
    tiles = tl.cdiv(height, TH) * tl.cdiv(width, TW)
    splits = tl.cdiv(channels, split_channels)
    program = tl.program_id(0)
    for k in tl.static_range(DIRECTIONS):
        _backward_of_direction(
            program % splits,
            program // splits % tiles,
            program // splits // tiles,
            u_ptr,
            dy_ptr,
            delta_ptr,
            A_ptr,
            B_ptr,
            C_ptr,
            D_ptr,
            bias_ptr,
            state_ptr,
            adjoint_ptr,
            du_ptr,
            ddelta_ptr,
            dA_ptr,
            dB_ptr,
            dC_ptr,
            dD_ptr,
            dbias_ptr,
            batches,
            groups,
            channels,
            height,
            width,
            states,
            segments,
            split_channels,
            k,
            DIRECTIONS,
            (FIRST + k) % 2 == 1,
            FIRST + k >= 2,
            SOFTPLUS,
            PASSES,
            N,
            TH,
            TW,
        )
