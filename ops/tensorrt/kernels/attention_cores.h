// Attention on tensor cores, in float16 and bfloat16: a warp holds 16 queries (2 x 8 of a tile of 8 x 8), keys of the tile's halo pass
// through shared memory in chunks. Each row of the halo is filled up to whole groups of 8 keys, so that a group lies in one row: whether a
// query sees the row is the same for half a warp, and which columns it sees is a bit mask made once. Groups that no query of a warp sees
// are skipped. Fragments: matrix.h; softmax runs along (as in arXiv 2205.14135).
// NaN or infinity in v spreads over its tile: a masked weight is 0, and 0 x NaN is NaN.
#pragma once

#include "attention_tile.h"
#include "matrix.h"

namespace segc {

constexpr int kCoreRows = 8, kCoreColumns = 8, kCoreWarps = 4, kCoreThreads = kCoreWarps * kWarp;
constexpr size_t kMaxTableBytes = 28 << 10;  // of a head's bias, which lies in shared memory beside the keys
constexpr int kRowPadding = 8;  // rows of neighbouring keys start in other banks

// Keys that pass through shared memory at a time: fewer where a vector takes many registers.
SEGC_BOTH constexpr int chunk_of(int channels) { return channels > 64 ? 32 : 64; }

struct GroupPlace {
    int row, column;  // of the group's first key in the halo; a row beyond the halo: no group
};

template <typename T, int kChannels>
struct CoreShared {
    static constexpr int kStride = kChannels + kRowPadding, kChunk = chunk_of(kChannels);
    T keys[kChunk * kStride], values[kChunk * kStride];
    GroupPlace groups[kChunk / 8];
};

template <int kChannels>
struct CoreState {
    uint32_t q[kChannels / 16][4];
    float sum[kChannels / 8][4];
    float maximum[2], total[2];  // of the two queries of this thread; total: this thread's part
};

// What this thread's two queries, one below the other, see of the halo. Indices are those of the halo.
struct View {
    int first_row[2], column_bias;  // column_bias: offset of the halo's first column in a row of the bias
    int row_bias[2];                // offset of the halo's first row in the bias of the head
    uint32_t columns;               // bit 2 g + i: whether key i of this thread's two keys in column group g is seen
    float const* table;             // the head's bias in shared memory; null without bias
};

template <typename T>
SEGC_DEVICE uint32_t load_pair(T const* from, int channel, int head_dim) {
    T const zero = as<T>(0.0f);
    return pack(channel < head_dim ? from[channel] : zero, channel + 1 < head_dim ? from[channel + 1] : zero);
}

template <typename T, int kChannels>
SEGC_DEVICE void load_queries(AttentionArgs<T> const& args, T const* upper, T const* lower, CoreState<kChannels>& state) {
    int const pair = lane_index() % 4 * 2;
    SEGC_UNROLL
    for (int i = 0; i < kChannels / 16; ++i) {
        int const channel = i * 16 + pair;
        state.q[i][0] = load_pair(upper, channel, args.head_dim);
        state.q[i][1] = load_pair(lower, channel, args.head_dim);
        state.q[i][2] = load_pair(upper, channel + 8, args.head_dim);
        state.q[i][3] = load_pair(lower, channel + 8, args.head_dim);
    }
}

// Copy a chunk of keys to shared memory, from group ``first`` of the halo on; where there is no key or channel, 0.
template <typename T, int kChannels>
SEGC_DEVICE void stage_chunk(AttentionArgs<T> const& args, Tile const& tile, int first, CoreShared<T, kChannels>& shared) {
    constexpr int kVectors = kChannels / 8, kStride = CoreShared<T, kChannels>::kStride, kChunk = chunk_of(kChannels);
    int const groups = divide_up(tile.columns.size, 8);
    for (int i = thread_index(); i < kChunk * kVectors; i += kCoreThreads) {
        int const key = i / kVectors, channel = i % kVectors * 8, group = first + key / 8;
        int const row = group / groups, column = group % groups * 8 + key % 8;
        bool const exists = row < tile.rows.size && column < tile.columns.size;
        T* const to_key = shared.keys + key * kStride + channel;
        T* const to_value = shared.values + key * kStride + channel;
        int64_t const from = exists ? member_offset(args, tile, tile.rows.halo + row, tile.columns.halo + column) + channel : 0;
        if (exists && args.vector && channel < args.head_dim) {
            *reinterpret_cast<Vector16*>(to_key) = *reinterpret_cast<Vector16 const*>(args.k + from);
            *reinterpret_cast<Vector16*>(to_value) = *reinterpret_cast<Vector16 const*>(args.v + from);
        } else {
            for (int j = 0; j < 8; ++j) {
                bool const real = exists && channel + j < args.head_dim;
                to_key[j] = real ? args.k[from + j] : as<T>(0.0f);
                to_value[j] = real ? args.v[from + j] : as<T>(0.0f);
            }
        }
        if (channel == 0 && key % 8 == 0) shared.groups[key / 8] = {row, column};
    }
}

template <typename T>
SEGC_DEVICE void stage_bias(AttentionArgs<T> const& args, Tile const& tile, float* table) {
    int const size = (2 * args.kernel.rows - 1) * (2 * args.kernel.columns - 1);
    for (int i = thread_index(); i < size; i += kCoreThreads) table[i] = bias_at(args, tile.head * size + i);
}

template <typename T>
SEGC_DEVICE View find_view(AttentionArgs<T> const& args, Tile const& tile, Query const (&queries)[2], float const* table) {
    View view{};
    view.table = table;
    view.column_bias = tile.columns.halo - queries[0].column + args.kernel.columns - 1;
    int const first = queries[0].first_column - tile.columns.halo - lane_index() % 4 * 2;
    for (int bit = 0; bit < 2 * divide_up(tile.columns.size, 8); ++bit) {
        int const column = bit / 2 * 8 + bit % 2 - first;
        if (column >= 0 && column < args.kernel.columns) view.columns |= 1u << bit;
    }
    SEGC_UNROLL
    for (int half = 0; half < 2; ++half) {
        view.first_row[half] = queries[half].first_row - tile.rows.halo;
        view.row_bias[half] = (tile.rows.halo - queries[half].row + args.kernel.rows - 1) * (2 * args.kernel.columns - 1);
    }
    return view;
}

// Products -> logits; -infinity where a query does not see a key.
template <typename T>
SEGC_DEVICE void mask(AttentionArgs<T> const& args, View const& view, GroupPlace place, float (&logits)[4]) {
    uint32_t const seen = view.columns >> (place.column / 4);
    int const column = place.column + lane_index() % 4 * 2 + view.column_bias;
    SEGC_UNROLL
    for (int half = 0; half < 2; ++half) {
        bool const row_seen = static_cast<unsigned>(place.row - view.first_row[half]) < static_cast<unsigned>(args.kernel.rows);
        int const index = view.row_bias[half] + place.row * (2 * args.kernel.columns - 1) + column;
        SEGC_UNROLL
        for (int i = 0; i < 2; ++i) {
            float& logit = logits[2 * half + i];
            logit = row_seen && (seen >> i & 1) ? logit * args.scale + (view.table ? view.table[index + i] : 0.0f) : -INFINITY;
        }
    }
}

// Products of 16 queries and 8 keys, in the layout of an mma result.
template <typename T, int kChannels>
SEGC_DEVICE void group_products(
    CoreShared<T, kChannels> const& shared, int group, CoreState<kChannels> const& state, float (&products)[4]) {
    constexpr int kStride = CoreShared<T, kChannels>::kStride;
    T const* const row = shared.keys + (group * 8 + lane_index() / 4) * kStride + lane_index() % 4 * 2;
    SEGC_UNROLL
    for (int i = 0; i < 4; ++i) products[i] = 0.0f;
    SEGC_UNROLL
    for (int i = 0; i < kChannels / 16; ++i) {
        uint32_t const keys[2] = {
            *reinterpret_cast<uint32_t const*>(row + i * 16), *reinterpret_cast<uint32_t const*>(row + i * 16 + 8)};
        multiply_add<T>(state.q[i], keys, products);
    }
}

SEGC_DEVICE float quad_maximum(float value) {
    value = greater(value, shuffle_xor(value, 1));
    return greater(value, shuffle_xor(value, 2));
}

SEGC_DEVICE float quad_sum(float value) {
    value += shuffle_xor(value, 1);
    return value + shuffle_xor(value, 2);
}

// Logits -> weights relative to the new maximum; the sums so far are rescaled to it.
template <int kChannels>
SEGC_DEVICE void weigh(float (&logits)[chunk_of(kChannels) / 8][4], CoreState<kChannels>& state) {
    SEGC_UNROLL
    for (int half = 0; half < 2; ++half) {
        float maximum = -INFINITY;
        SEGC_UNROLL
        for (int group = 0; group < chunk_of(kChannels) / 8; ++group)
            maximum = greater(greater(logits[group][2 * half], logits[group][2 * half + 1]), maximum);
        maximum = greater(state.maximum[half], quad_maximum(maximum));
        float const shift = maximum == -INFINITY ? 0.0f : maximum, rescale = exp2_of(state.maximum[half] - shift);
        state.maximum[half] = maximum;
        state.total[half] *= rescale;
        SEGC_UNROLL
        for (int group = 0; group < chunk_of(kChannels) / 8; ++group)
            SEGC_UNROLL
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                logits[group][i] = exp2_of(logits[group][i] - shift);
                state.total[half] += logits[group][i];
            }
        SEGC_UNROLL
        for (int i = 0; i < kChannels / 8; ++i)
            SEGC_UNROLL
            for (int j = 2 * half; j < 2 * half + 2; ++j) state.sum[i][j] *= rescale;
    }
}

// sum += weights x values, 16 keys at a time; two groups of logits are the left operand as they lie.
template <typename T, int kChannels>
SEGC_DEVICE void add_values(
    float const (&weights)[chunk_of(kChannels) / 8][4], uint32_t needed, CoreShared<T, kChannels> const& shared,
    CoreState<kChannels>& state) {
    constexpr int kStride = CoreShared<T, kChannels>::kStride;
    SEGC_UNROLL
    for (int i = 0; i < chunk_of(kChannels) / 16; ++i) {
        if (!(needed >> (2 * i) & 3)) continue;
        float const(&left)[4] = weights[2 * i];
        float const(&right)[4] = weights[2 * i + 1];
        uint32_t const packed[4] = {pack(as<T>(left[0]), as<T>(left[1])), pack(as<T>(left[2]), as<T>(left[3])),
            pack(as<T>(right[0]), as<T>(right[1])), pack(as<T>(right[2]), as<T>(right[3]))};
        SEGC_UNROLL
        for (int j = 0; j < kChannels / 8; ++j) {
            uint32_t values[2];
            load_transposed(shared.values + i * 16 * kStride + j * 8, kStride, values);
            multiply_add<T>(packed, values, state.sum[j]);
        }
    }
}

template <typename T, int kChannels>
SEGC_DEVICE void attend_chunk(AttentionArgs<T> const& args, View const& view, CoreShared<T, kChannels> const& shared,
    CoreState<kChannels>& state) {
    float logits[chunk_of(kChannels) / 8][4];
    uint32_t needed = 0;
    SEGC_UNROLL
    for (int group = 0; group < chunk_of(kChannels) / 8; ++group) {
        GroupPlace const place = shared.groups[group];
        if (place.row >= view.first_row[0] && place.row < view.first_row[1] + args.kernel.rows) {  // the same for a whole warp
            needed |= 1u << group;
            group_products(shared, group, state, logits[group]);
            mask(args, view, place, logits[group]);
        } else {
            SEGC_UNROLL
            for (int i = 0; i < 4; ++i) logits[group][i] = -INFINITY;
        }
    }
    if (!needed) return;
    weigh(logits, state);
    add_values(logits, needed, shared, state);
}

template <typename T, int kChannels>
SEGC_DEVICE void store_query(
    AttentionArgs<T> const& args, Tile const& tile, Query const& query, CoreState<kChannels> const& state, int half) {
    float const factor = 1.0f / quad_sum(state.total[half]);
    if (!query.inside) return;
    T* const to = args.y + member_offset(args, tile, query.row, query.column);
    SEGC_UNROLL
    for (int i = 0; i < kChannels / 8; ++i) {
        int const channel = i * 8 + lane_index() % 4 * 2;
        T const one = as<T>(state.sum[i][2 * half] * factor), other = as<T>(state.sum[i][2 * half + 1] * factor);
        if (args.vector && channel < args.head_dim) {
            *reinterpret_cast<uint32_t*>(to + channel) = pack(one, other);
        } else {
            if (channel < args.head_dim) to[channel] = one;
            if (channel + 1 < args.head_dim) to[channel + 1] = other;
        }
    }
}

// Grid: tiles x groups of the dilation x heads x batch.
template <typename T, int kChannels>
SEGC_KERNEL(kCoreThreads, 1) cores_kernel(AttentionArgs<T> args) {
    Tile tile;
    if (!find_tile<kCoreRows, kCoreColumns>(args, tile)) return;
    auto& shared = *reinterpret_cast<CoreShared<T, kChannels>*>(shared_memory());
    int const row = thread_index() / kWarp * 2, column = lane_index() / 4;
    Query const queries[2] = {find_query(args, tile, row, column), find_query(args, tile, row + 1, column)};
    CoreState<kChannels> state{};
    state.maximum[0] = state.maximum[1] = -INFINITY;
    load_queries(args, args.q + member_offset(args, tile, queries[0].row, queries[0].column),
        args.q + member_offset(args, tile, queries[1].row, queries[1].column), state);
    float* const table = args.rpb ? reinterpret_cast<float*>(&shared + 1) : nullptr;
    if (table) stage_bias(args, tile, table);
    View const view = find_view(args, tile, queries, table);
    int const groups = tile.rows.size * divide_up(tile.columns.size, 8);
    for (int first = 0; first < groups; first += chunk_of(kChannels) / 8) {
        sync_block();
        stage_chunk(args, tile, first, shared);
        sync_block();
        attend_chunk(args, view, shared, state);
    }
    SEGC_UNROLL
    for (int half = 0; half < 2; ++half) store_query(args, tile, queries[half], state, half);
}

}  // namespace segc
