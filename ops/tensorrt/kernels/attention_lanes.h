// Attention without tensor cores, for any type and head_dim: eight lanes share a query and meet eight keys at a time. Each lane holds a
// part of the vector's channels; by exchanging partial products the eight lanes end with one logit each, so that the exponential is
// computed once a key. The rows of the halo pass through shared memory one after the other, in pieces where a row does not fit. The four
// queries of a warp lie side by side and read the same keys, which costs one access; keys outside a query's window are masked.
#pragma once

#include "attention_tile.h"

namespace segc {

constexpr int kLanes = 8, kLaneVector = 4;  // a lane's channels come in vectors of 4: lane, lane + 8, ...
constexpr int kLaneRows = 4, kLaneColumns = 8;
constexpr int kLaneThreads = kLaneRows * kLaneColumns * kLanes;
constexpr size_t kMaxPieceBytes = 48 << 10;

template <typename T>
struct alignas(sizeof(T) * kLaneVector) Four {
    T items[kLaneVector];
};

// Four channels from ``channel`` on; 0 beyond head_dim.
template <typename T>
SEGC_DEVICE Four<T> load_four(T const* from, int channel, int head_dim, bool vector) {
    if (vector && channel < head_dim) return *reinterpret_cast<Four<T> const*>(from + channel);
    Four<T> four;
    SEGC_UNROLL
    for (int i = 0; i < kLaneVector; ++i) four.items[i] = channel + i < head_dim ? from[channel + i] : as<T>(0.0f);
    return four;
}

SEGC_DEVICE int lane_channel(int vector) { return (vector * kLanes + thread_index() % kLanes) * kLaneVector; }

template <typename T, int kVectors>
SEGC_DEVICE void store_lane(float const (&from)[kVectors * kLaneVector], float factor, AttentionArgs<T> const& args, T* to) {
    SEGC_UNROLL
    for (int i = 0; i < kVectors; ++i) {
        int const channel = lane_channel(i);
        Four<T> four;
        SEGC_UNROLL
        for (int j = 0; j < kLaneVector; ++j) four.items[j] = as<T>(from[i * kLaneVector + j] * factor);
        if (args.vector && channel < args.head_dim) {
            *reinterpret_cast<Four<T>*>(to + channel) = four;
        } else {
            SEGC_UNROLL
            for (int j = 0; j < kLaneVector; ++j)
                if (channel + j < args.head_dim) to[channel + j] = four.items[j];
        }
    }
}

// partial[i] is this lane's part of key i's logit; returns the whole logit of the key whose number is this lane's.
SEGC_DEVICE float exchange_partials(float (&partial)[kLanes]) {
    int const lane = thread_index() % kLanes;
    SEGC_UNROLL
    for (int half = kLanes / 2; half > 0; half /= 2) {
        bool const upper = lane & half;
        SEGC_UNROLL
        for (int i = 0; i < half; ++i) {
            float const mine = upper ? partial[i + half] : partial[i];
            float const given = upper ? partial[i] : partial[i + half];
            partial[i] = mine + shuffle_xor(given, half);
        }
    }
    return partial[0];
}

SEGC_DEVICE float lanes_maximum(float value) {
    for (int mask = kLanes / 2; mask > 0; mask /= 2) value = greater(value, shuffle_xor(value, mask));
    return value;
}

SEGC_DEVICE float lanes_sum(float value) {
    for (int mask = kLanes / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

template <int kVectors>
struct LaneState {
    float q[kVectors * kLaneVector], sum[kVectors * kLaneVector];
    float maximum, total;  // total: this lane's part
};

// A piece of a row of the halo in shared memory: columns first .. end - 1 of the halo, channels padded with 0.
template <typename T>
struct Piece {
    T *keys, *values;
    int first, end;
};

template <typename T, int kVectors>
SEGC_DEVICE void read_lane(T const* from, float (&to)[kVectors * kLaneVector]) {
    SEGC_UNROLL
    for (int i = 0; i < kVectors; ++i) {
        Four<T> const four = *reinterpret_cast<Four<T> const*>(from + lane_channel(i));
        SEGC_UNROLL
        for (int j = 0; j < kLaneVector; ++j) to[i * kLaneVector + j] = to_float(four.items[j]);
    }
}

template <typename T, int kVectors>
SEGC_DEVICE void stage_piece(AttentionArgs<T> const& args, Tile const& tile, int row, Piece<T> const& piece) {
    constexpr int kFours = kVectors * kLanes;
    for (int i = thread_index(); i < (piece.end - piece.first) * kFours; i += kLaneThreads) {
        int const channel = i % kFours * kLaneVector;
        int64_t const from = member_offset(args, tile, row, tile.columns.halo + piece.first + i / kFours);
        reinterpret_cast<Four<T>*>(piece.keys)[i] = load_four(args.k + from, channel, args.head_dim, args.vector);
        reinterpret_cast<Four<T>*>(piece.values)[i] = load_four(args.v + from, channel, args.head_dim, args.vector);
    }
}

// Logit of the key whose number among eight is this lane's; ``keys`` of the first of them, ``count`` of them exist.
template <typename T, int kVectors>
SEGC_DEVICE float lane_logit(T const* keys, int count, LaneState<kVectors> const& state) {
    float partial[kLanes], channels[kVectors * kLaneVector];
    SEGC_UNROLL
    for (int i = 0; i < kLanes; ++i) {
        read_lane<T, kVectors>(keys + (i < count ? i : 0) * kVectors * kLanes * kLaneVector, channels);
        partial[i] = 0.0f;
        SEGC_UNROLL
        for (int j = 0; j < kVectors * kLaneVector; ++j) partial[i] += state.q[j] * channels[j];
    }
    return exchange_partials(partial);
}

// Softmax runs along: the sums so far are rescaled to the new maximum. Returns this lane's weight.
template <int kVectors>
SEGC_DEVICE float lane_weight(float logit, LaneState<kVectors>& state) {
    float const maximum = greater(state.maximum, lanes_maximum(logit));
    float const shift = maximum == -INFINITY ? 0.0f : maximum;
    float const weight = exp2_of(logit - shift), rescale = exp2_of(state.maximum - shift);
    state.maximum = maximum;
    state.total = state.total * rescale + weight;
    SEGC_UNROLL
    for (int j = 0; j < kVectors * kLaneVector; ++j) state.sum[j] *= rescale;
    return weight;
}

// Keys first .. end - 1 of the halo's columns, in row ``row`` of the window: the same for the whole warp.
template <typename T, int kVectors>
SEGC_DEVICE void attend_piece(AttentionArgs<T> const& args, Query const& query, Piece<T> const& piece, int row, int offset, int first,
    int end, LaneState<kVectors>& state) {
    constexpr int kStride = kVectors * kLanes * kLaneVector;
    int const lane = thread_index() % kLanes, base = lane_index() / kLanes * kLanes;
    for (; first < end; first += kLanes) {
        int const count = end - first, place = (first - piece.first) * kStride;
        int const column = first + lane - offset;  // in the window
        float logit = lane_logit<T, kVectors>(piece.keys + place, count, state) * args.scale;
        bool const seen = lane < count && column >= 0 && column < args.kernel.columns;
        logit = seen ? logit + bias_of(args, query, row, column) : -INFINITY;
        float const weight = lane_weight(logit, state);
        SEGC_UNROLL
        for (int i = 0; i < kLanes; ++i) {
            float const part = shuffle(weight, base + i);
            if (part == 0.0f) continue;  // masked: what lies there, NaN too, does not count
            float channels[kVectors * kLaneVector];
            read_lane<T, kVectors>(piece.values + place + i * kStride, channels);
            SEGC_UNROLL
            for (int j = 0; j < kVectors * kLaneVector; ++j) state.sum[j] += part * channels[j];
        }
    }
}

// Grid: tiles x groups of the dilation x heads x batch.
template <typename T, int kVectors>
SEGC_KERNEL(kLaneThreads, kVectors > 2 ? 1 : 2) lanes_kernel(AttentionArgs<T> args) {
    Tile tile;
    if (!find_tile<kLaneRows, kLaneColumns>(args, tile)) return;
    int const place = thread_index() / kLanes, warp_place = thread_index() / kWarp * (kWarp / kLanes);
    Query const query = find_query(args, tile, place / kLaneColumns, place % kLaneColumns);
    Query const left = find_query(args, tile, warp_place / kLaneColumns, warp_place % kLaneColumns);
    Query const right = find_query(args, tile, warp_place / kLaneColumns, warp_place % kLaneColumns + kWarp / kLanes - 1);
    int64_t const offset = member_offset(args, tile, query.row, query.column);
    LaneState<kVectors> state{};
    state.maximum = -INFINITY;
    SEGC_UNROLL
    for (int i = 0; i < kVectors; ++i) {
        Four<T> const four = load_four(args.q + offset, lane_channel(i), args.head_dim, args.vector);
        SEGC_UNROLL
        for (int j = 0; j < kLaneVector; ++j) state.q[i * kLaneVector + j] = to_float(four.items[j]);
    }
    Piece<T> piece{};
    piece.keys = reinterpret_cast<T*>(shared_memory());
    piece.values = piece.keys + args.piece * kVectors * kLanes * kLaneVector;
    for (int i = 0; i < tile.rows.size; ++i) {
        int const within = tile.rows.halo + i - query.first_row;  // the same for a whole warp: its queries share a row of the tile
        for (piece.first = 0; piece.first < tile.columns.size; piece.first = piece.end) {
            piece.end = lesser(piece.first + args.piece, tile.columns.size);
            sync_block();
            stage_piece<T, kVectors>(args, tile, tile.rows.halo + i, piece);
            sync_block();
            if (within < 0 || within >= args.kernel.rows) continue;
            int const first = left.first_column - tile.columns.halo, end = right.first_column - tile.columns.halo + args.kernel.columns;
            attend_piece<T, kVectors>(args, query, piece, within, query.first_column - tile.columns.halo, greater(first, piece.first),
                lesser(end, piece.end), state);
        }
    }
    float const total = lanes_sum(state.total);
    if (query.inside) store_lane<T, kVectors>(state.sum, 1.0f / total, args, args.y + offset);
}

}  // namespace segc
