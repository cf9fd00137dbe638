"""Forward kernels of the scan: one pass over whole sequences, or two levels over tiles (segment states, their chain, the output).

Every kernel accumulates in the type of A (float32, or float64 for float64 input), loads each element once a pass in memory order
(a reversed walk is a reversed scan of the same tile, a column walk a scan along the tile's other axis) and uses no atomics.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from segc.ops.triton_kernels.scan_device import chain, entering, line_place, per_channel, program_place, step_size, tile_of_channels


@triton.jit
def _scan_rows(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    y_ptr,
    groups,
    channels,
    length,
    states,
    REVERSE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    STAGES: tl.constexpr,
):
    """R sequences of one group from end to end, T steps at a time, the state carried in registers."""
    work: tl.constexpr = A_ptr.dtype.element_ty
    group, _, channel = program_place(1, channels, R)
    n, steps = tl.arange(0, N)[None, :, None], tl.arange(0, T)[None, None, :]
    valid = channel < channels
    head = group % groups * channels + channel
    row = (group.to(tl.int64) * channels + channel)[:, None, None] * length
    state_row = (group.to(tl.int64) * states + n) * length
    A = tl.load(A_ptr + head[:, None, None] * states + n, mask=valid[:, None, None] & (n < states), other=0.0)
    D, bias = per_channel(D_ptr, head, valid, work)[:, None, None], per_channel(bias_ptr, head, valid, work)[:, None, None]
    state = tl.zeros((R, N, 1), work)
    blocks = tl.cdiv(length, T)
    for index in tl.range(0, blocks, num_stages=STAGES):
        t = (blocks - 1 - index if REVERSE else index) * T + steps
        mask, state_mask = valid[:, None, None] & (t < length), (n < states) & (t < length)
        u = tl.load(u_ptr + row + t, mask=mask, other=0.0).to(work)
        delta = tl.load(delta_ptr + row + t, mask=mask, other=0.0).to(work)
        B = tl.load(B_ptr + state_row + t, mask=state_mask, other=0.0).to(work)
        C = tl.load(C_ptr + state_row + t, mask=state_mask, other=0.0).to(work)
        dt = step_size(delta, bias, SOFTPLUS)
        inside = mask & state_mask
        decay = tl.where(inside, tl.exp(dt * A), 1.0)
        x = tl.where(inside, dt * u * B, 0.0)
        decay, x = tl.associative_scan((decay, x), 2, chain, reverse=REVERSE)
        h = x + decay * state
        y = tl.sum(h * C, 1, keep_dims=True) + D * u
        tl.store(y_ptr + row + t, y.to(y_ptr.dtype.element_ty), mask=mask)
        state = tl.sum(tl.where(steps == (0 if REVERSE else T - 1), h, 0.0), 2, keep_dims=True)


@triton.jit
def _states_of_direction(
    u,
    dy,
    inside,
    within,
    place,
    channel,
    group,
    tile,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    bias_ptr,
    total_ptr,
    state_ptr,
    adjoint_ptr,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    K: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    COLUMN: tl.constexpr,
    REVERSE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """One direction of ``_segment_states``: the ``K``-th of ``DIRECTIONS``."""
    work: tl.constexpr = A_ptr.dtype.element_ty
    AXIS: tl.constexpr = 1 if COLUMN else 2
    batch, own, plane = group.to(tl.int64) // groups, group % groups, height * width
    valid = channel < channels
    head = (K * groups + own) * channels + channel
    row = batch * (DIRECTIONS * groups * channels) + head
    bias = per_channel(bias_ptr, head, valid, work)
    delta = tl.load(delta_ptr + row[:, None, None] * plane + place, mask=inside, other=0.0).to(work)
    dt = tl.where(inside, step_size(delta, bias[:, None, None], SOFTPLUS), 0.0)
    after = tl.cumsum(dt, AXIS, reverse=not REVERSE) - dt
    if adjoint_ptr is not None:
        until = tl.cumsum(dt, AXIS, reverse=REVERSE)
    index, _, exists = line_place(tile, height, width, COLUMN, REVERSE, TH, TW)
    stored = valid[:, None] & exists[None, :]
    tl.store(total_ptr + row[:, None] * segments + index[None, :], tl.sum(dt, AXIS), mask=stored)
    for n in range(states):
        A = tl.load(A_ptr + head * states + n, mask=valid, other=0.0)
        shared = (((batch * DIRECTIONS + K) * groups + own) * states + n) * plane + place
        B = tl.load(B_ptr + shared, mask=within, other=0.0).to(work)
        out = (row[:, None] * states + n) * segments + index[None, :]
        x = tl.where(inside, dt * u * B * tl.exp(after * A[:, None, None]), 0.0)
        tl.store(state_ptr + out, tl.sum(x, AXIS), mask=stored)
        if adjoint_ptr is not None:
            C = tl.load(C_ptr + shared, mask=within, other=0.0).to(work)
            x = tl.where(inside, dy * C * tl.exp(until * A[:, None, None]), 0.0)
            tl.store(adjoint_ptr + out, tl.sum(x, AXIS), mask=stored)


@triton.jit
def _segment_states(
    u_ptr,
    dy_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    bias_ptr,
    total_ptr,
    state_ptr,
    adjoint_ptr,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    FIRST: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    R: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """Total step of each segment and the state at its end when it starts from zero; with ``adjoint_ptr`` also the adjoint at its start.

    No scan of pairs is needed: the input of a step reaches the end decayed by the sum of the steps after it.
    """
    work: tl.constexpr = A_ptr.dtype.element_ty
    group, tile, channel = program_place(tl.cdiv(height, TH) * tl.cdiv(width, TW), channels, R)
    place, within, inside = tile_of_channels(tile, channel, channels, height, width, TH, TW)
    shared = (group.to(tl.int64) * channels + channel)[:, None, None] * (height * width) + place
    u = tl.load(u_ptr + shared, mask=inside, other=0.0).to(work)
    dy = u
    if adjoint_ptr is not None:
        dy = tl.load(dy_ptr + shared, mask=inside, other=0.0).to(work)
    for k in tl.static_range(DIRECTIONS):
        _states_of_direction(
            u,
            dy,
            inside,
            within,
            place,
            channel,
            group,
            tile,
            delta_ptr,
            A_ptr,
            B_ptr,
            C_ptr,
            bias_ptr,
            total_ptr,
            state_ptr,
            adjoint_ptr,
            groups,
            channels,
            height,
            width,
            states,
            segments,
            k,
            DIRECTIONS,
            (FIRST + k) % 2 == 1,
            FIRST + k >= 2,
            SOFTPLUS,
            TH,
            TW,
        )


@triton.jit
def _chain_states(
    total_ptr,
    A_ptr,
    state_ptr,
    rows,
    heads,
    states,
    segments,
    row_segments,
    column_segments,
    FIRST: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    REVERSE: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
):
    """Replace the state of each segment by the one after it when the whole sequence before it has run (in place).

    Args:
        rows: states of all sequences.
        heads: rows of A.
    """
    row, steps = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R), tl.arange(0, S)
    A = tl.load(A_ptr + row % (heads * states), mask=row < rows, other=0.0)
    sequence = row // states
    along_columns = (FIRST + sequence % heads * DIRECTIONS // heads) % 2 == 1
    count = tl.where(along_columns, column_segments, row_segments)
    carry = tl.zeros((R,), state_ptr.dtype.element_ty)
    blocks = tl.cdiv(segments, S)
    for index in range(blocks):
        segment = (blocks - 1 - index if REVERSE else index) * S + steps
        place = row[:, None] * segments + segment[None, :]
        mask = (row < rows)[:, None] & (segment[None, :] < count[:, None])
        total = tl.load(total_ptr + sequence[:, None] * segments + segment[None, :], mask=mask, other=0.0)
        state = tl.load(state_ptr + place, mask=mask, other=0.0)
        decay, state = tl.associative_scan((tl.exp(total * A[:, None]), state), 1, chain, reverse=REVERSE)
        state += decay * carry[:, None]
        tl.store(state_ptr + place, state, mask=mask)
        carry = tl.sum(tl.where((steps == (0 if REVERSE else S - 1))[None, :], state, 0.0), 1)


@triton.jit
def _direction_of_tile(
    u,
    inside,
    within,
    place,
    channel,
    group,
    tile,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    state_ptr,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    K: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    COLUMN: tl.constexpr,
    REVERSE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """One direction of ``_scan_tiles``: what it adds to the output."""
    work: tl.constexpr = A_ptr.dtype.element_ty
    AXIS: tl.constexpr = 1 if COLUMN else 2
    batch, own, plane = group.to(tl.int64) // groups, group % groups, height * width
    valid = channel < channels
    head = (K * groups + own) * channels + channel
    row = batch * (DIRECTIONS * groups * channels) + head
    D, bias = per_channel(D_ptr, head, valid, work), per_channel(bias_ptr, head, valid, work)
    delta = tl.load(delta_ptr + row[:, None, None] * plane + place, mask=inside, other=0.0).to(work)
    dt = step_size(delta, bias[:, None, None], SOFTPLUS)
    y = D[:, None, None] * u
    index, count, exists = line_place(tile, height, width, COLUMN, REVERSE, TH, TW)
    for n in range(states):
        A = tl.load(A_ptr + head * states + n, mask=valid, other=0.0)
        shared = (((batch * DIRECTIONS + K) * groups + own) * states + n) * plane + place
        B = tl.load(B_ptr + shared, mask=within, other=0.0).to(work)
        C = tl.load(C_ptr + shared, mask=within, other=0.0).to(work)
        decay = tl.where(inside, tl.exp(dt * A[:, None, None]), 1.0)
        x = tl.where(inside, dt * u * B, 0.0)
        decay, x = tl.associative_scan((decay, x), AXIS, chain, reverse=REVERSE)
        before = entering(state_ptr, (row * states + n) * segments, valid, index, count, exists, -1, AXIS)
        y += C * (x + decay * before)
    return y


@triton.jit
def _scan_tiles(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    state_ptr,
    y_ptr,
    groups,
    channels,
    height,
    width,
    states,
    segments,
    FIRST: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    R: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """The output of a tile: every direction enters its segments with the chained states, and the sum is written once, in map order."""
    work: tl.constexpr = A_ptr.dtype.element_ty
    group, tile, channel = program_place(tl.cdiv(height, TH) * tl.cdiv(width, TW), channels, R)
    place, within, inside = tile_of_channels(tile, channel, channels, height, width, TH, TW)
    shared = (group.to(tl.int64) * channels + channel)[:, None, None] * (height * width) + place
    u = tl.load(u_ptr + shared, mask=inside, other=0.0).to(work)
    y = tl.zeros((R, TH, TW), work)
    for k in tl.static_range(DIRECTIONS):
        y += _direction_of_tile(
            u,
            inside,
            within,
            place,
            channel,
            group,
            tile,
            delta_ptr,
            A_ptr,
            B_ptr,
            C_ptr,
            D_ptr,
            bias_ptr,
            state_ptr,
            groups,
            channels,
            height,
            width,
            states,
            segments,
            k,
            DIRECTIONS,
            (FIRST + k) % 2 == 1,
            FIRST + k >= 2,
            SOFTPLUS,
            TH,
            TW,
        )
    tl.store(y_ptr + shared, y.to(y_ptr.dtype.element_ty), mask=inside)
