// The kernels of the scan. A step is the map h -> decay h + state, and maps compose associatively: a thread composes its eight steps, a
// warp its threads by shuffles, a block its warps, and where sequences are cut into segments a second kernel carries the state across.
#pragma once

#include "numbers.h"

namespace segc {

constexpr int kItems = 8, kMaxScanThreads = 256, kScanBlocks = 2;  // blocks of a multiprocessor: bounds the registers
constexpr float kLog2E = 1.4426950408889634f;

struct Pair {
    float decay, state;
};

SEGC_DEVICE Pair then(Pair first, Pair second) {
    return {first.decay * second.decay, second.decay * first.state + second.state};
}

template <typename T>
struct ScanArgs {
    T const *u, *delta, *B, *C;
    float const *A, *D, *bias;
    T* y;
    float* columns;  // sum over the column directions, in map order; null where there are none
    Pair* carry;     // (row of the scan, segment, state): what a segment does, and after the carry kernel the state it starts from
    int channels, scan_channels, groups, states;
    int length, height, width;
    int segments, tiles_per_segment;
    int first_direction, directions;  // directions first, first + 2: the second one runs backwards over the same positions
    bool softplus, reverse, vector;
};

struct CarryArgs {
    Pair* carry;
    int64_t rows;
    int segments, states, channels;
    bool cross, reverse;
};

// Shared memory of one block. The float buffers exist for column directions only, whose tiles are transposed through them.
struct ScanShared {
    Pair *totals, *carry;
    float *first, *second;
};

SEGC_BOTH constexpr int padded(int position) { return position + position / kItems; }

inline size_t scan_shared_bytes(int states, int threads, bool columns) {
    return (2 * (kMaxScanThreads / kWarp) + 2 * states) * sizeof(Pair) + (columns ? 2 * padded(threads * kItems) * sizeof(float) : 0);
}

SEGC_DEVICE ScanShared scan_shared(int states) {
    ScanShared shared;
    shared.totals = reinterpret_cast<Pair*>(shared_memory());
    shared.carry = shared.totals + 2 * (kMaxScanThreads / kWarp);
    shared.first = reinterpret_cast<float*>(shared.carry + 2 * states);
    shared.second = shared.first + padded(block_threads() * kItems);
    return shared;
}

SEGC_DEVICE float softplus_of(float value) { return value > 20.0f ? value : log1pf(expf(value)); }

SEGC_DEVICE void mirror(float (&items)[kItems]) {
    SEGC_UNROLL
    for (int i = 0; i < kItems / 2; ++i) {
        float const item = items[i];
        items[i] = items[kItems - 1 - i];
        items[kItems - 1 - i] = item;
    }
}

struct Scanned {
    Pair before, total;  // what lies before this thread in the tile, and the whole tile
};

SEGC_DEVICE Pair shuffle_pair(Pair value, int lane) { return {shuffle(value.decay, lane), shuffle(value.state, lane)}; }

SEGC_DEVICE Scanned scan_block(Pair own, bool reverse, Pair* totals) {
    int const threads = block_threads();
    int const order = reverse ? threads - 1 - thread_index() : thread_index();
    int const rank = order % kWarp, warp = order / kWarp, back = reverse ? 1 : -1;
    Pair inclusive = own;
    for (int distance = 1; distance < kWarp; distance *= 2) {
        Pair const other = shuffle_pair(inclusive, (lane_index() + back * distance) & (kWarp - 1));
        if (rank >= distance) inclusive = then(other, inclusive);
    }
    Pair before = shuffle_pair(inclusive, (lane_index() + back) & (kWarp - 1));
    if (rank == 0) before = {1.0f, 0.0f};
    if (rank == kWarp - 1) totals[warp] = inclusive;
    sync_block();
    Pair prefix{1.0f, 0.0f}, total{1.0f, 0.0f};
    for (int i = 0; i < threads / kWarp; ++i) {
        if (i == warp) prefix = total;
        total = then(total, totals[i]);
    }
    return {then(prefix, before), total};
}

// Eight neighbouring steps of a sequence in memory order; beyond its end there is 0, which changes no state.
template <typename T>
SEGC_DEVICE void load_items(T const* row, int position, int length, bool vector, float (&items)[kItems]) {
    if (vector && position + kItems <= length) {
        load_eight(row + position, items);
    } else {
        SEGC_UNROLL
        for (int i = 0; i < kItems; ++i) items[i] = position + i < length ? to_float(row[position + i]) : 0.0f;
    }
}

template <typename T>
SEGC_DEVICE void store_items(float const (&items)[kItems], T* row, int position, int length, bool vector) {
    if (vector && position + kItems <= length) {
        store_eight(items, row + position);
    } else {
        SEGC_UNROLL
        for (int i = 0; i < kItems; ++i)
            if (position + i < length) row[position + i] = as<T>(items[i]);
    }
}

// Calls visit(place in the tile, offset in the map) for every position of a tile of the column order, neighbours of a row by
// neighbouring threads.
template <typename Visit>
SEGC_DEVICE void for_columns(int first, int height, int width, int length, Visit visit) {
    int const end = first + block_threads() * kItems < length ? first + block_threads() * kItems : length;
    int const left = first / height, columns = (end - 1) / height - left + 1;
    int const top = columns == 1 ? first - left * height : 0, bottom = columns == 1 ? end - left * height : height;
    for (int i = thread_index(); i < (bottom - top) * columns; i += block_threads()) {
        int const row = top + i / columns, column = left + i % columns;
        int const position = column * height + row;
        if (position >= first && position < end) visit(position - first, row * width + column);
    }
}

template <typename T>
SEGC_DEVICE void stage_columns(T const* map, int first, ScanArgs<T> const& args, float* buffer) {
    for_columns(first, args.height, args.width, args.length, [&](int place, int offset) { buffer[padded(place)] = to_float(map[offset]); });
}

SEGC_DEVICE void read_items(float const* buffer, int left, float (&items)[kItems]) {
    int const place = thread_index() * kItems;
    SEGC_UNROLL
    for (int i = 0; i < kItems; ++i) items[i] = i < left ? buffer[padded(place + i)] : 0.0f;
}

// Two maps at the same positions: directly along rows, through shared memory along columns.
template <bool kColumns, typename T>
SEGC_DEVICE void load_two(
    T const* one, T const* two, int first, ScanArgs<T> const& args, ScanShared const& shared, float (&to)[kItems], float (&other)[kItems]) {
    int const position = first + thread_index() * kItems;
    if constexpr (kColumns) {
        sync_block();
        stage_columns(one, first, args, shared.first);
        if (two) stage_columns(two, first, args, shared.second);
        sync_block();
        read_items(shared.first, args.length - position, to);
        if (two) read_items(shared.second, args.length - position, other);
    } else {
        load_items(one, position, args.length, args.vector, to);
        if (two) load_items(two, position, args.length, args.vector, other);
    }
}

// delta -> the size of a step, and u -> step x u; a step beyond the sequence has size 0.
template <typename T>
SEGC_DEVICE void prepare_steps(ScanArgs<T> const& args, int channel, int left, float (&step)[kItems], float (&input)[kItems]) {
    float const bias = args.bias ? args.bias[channel] : 0.0f;
    SEGC_UNROLL
    for (int i = 0; i < kItems; ++i) {
        float const raw = step[i] + bias;
        step[i] = i < left ? (args.softplus ? softplus_of(raw) : raw) : 0.0f;
        input[i] *= step[i];
    }
}

// Where a block's rows of A, B, C and the carry begin, for one direction.
struct ScanRow {
    int channel;
    int64_t maps, carry;
    bool reverse;
};

template <typename T>
SEGC_DEVICE ScanRow scan_row(ScanArgs<T> const& args, int direction) {
    int64_t const batch = block_x() / args.channels;
    int const channel = (args.first_direction + 2 * direction) * args.channels + static_cast<int>(block_x() % args.channels);
    int const group = channel / (args.scan_channels / args.groups);
    ScanRow row;
    row.channel = channel;
    row.maps = (batch * args.groups + group) * args.states * args.length;
    row.carry = ((batch * args.scan_channels + channel) * args.segments + block_y()) * args.states;
    row.reverse = args.directions == 2 ? direction == 1 : args.reverse;
    return row;
}

// One tile along one direction: adds C h to y (kApply), and composes the tile onto the carry.
template <typename T, bool kColumns, bool kApply>
SEGC_DEVICE void scan_tile(
    ScanArgs<T> const& args, ScanRow const& row, int first, ScanShared const& shared, int parity, int& turn, float (&y)[kItems]) {
    int const left = args.length - first - thread_index() * kItems;
    int64_t const plane = block_x() * args.length;
    int64_t const batch = block_x() / args.channels;
    float step[kItems], input[kItems], found[kItems] = {};
    load_two<kColumns>(
        args.delta + (batch * args.scan_channels + row.channel) * args.length, args.u + plane, first, args, shared, step, input);
    float const skip = kApply && args.D ? args.D[row.channel] : 0.0f;
    SEGC_UNROLL
    for (int i = 0; i < kItems; ++i)
        if (kApply && args.D) y[i] += skip * input[i];
    prepare_steps(args, row.channel, left, step, input);
    if (row.reverse) {
        mirror(step);
        mirror(input);
    }
    for (int n = 0; n < args.states; ++n) {
        float b[kItems], c[kItems], decay[kItems];
        int64_t const maps = row.maps + static_cast<int64_t>(n) * args.length;
        load_two<kColumns>(args.B + maps, kApply ? args.C + maps : nullptr, first, args, shared, b, c);
        if (row.reverse) {
            mirror(b);
            if (kApply) mirror(c);
        }
        float const rate = args.A[static_cast<int64_t>(row.channel) * args.states + n] * kLog2E;
        Pair own{1.0f, 0.0f};
        SEGC_UNROLL
        for (int i = 0; i < kItems; ++i) {
            decay[i] = exp2_of(step[i] * rate);
            b[i] *= input[i];
            own = then(own, {decay[i], b[i]});
        }
        Scanned const scanned = scan_block(own, row.reverse, shared.totals + (turn & 1) * (kMaxScanThreads / kWarp));
        ++turn;
        Pair const carry = shared.carry[(parity & 1) * args.states + n];
        if (thread_index() == 0) shared.carry[((parity + 1) & 1) * args.states + n] = then(carry, scanned.total);
        if constexpr (kApply) {
            float state = then(carry, scanned.before).state;
            SEGC_UNROLL
            for (int i = 0; i < kItems; ++i) {
                state = decay[i] * state + b[i];
                found[i] += c[i] * state;
            }
        }
    }
    if (row.reverse) mirror(found);
    SEGC_UNROLL
    for (int i = 0; i < kItems; ++i) y[i] += found[i];
}

// The carry a segment starts from: the state of the carry kernel, or nothing.
template <typename T, bool kApply>
SEGC_DEVICE void begin_carry(ScanArgs<T> const& args, ScanRow const& row, ScanShared const& shared) {
    for (int n = thread_index(); n < args.states; n += block_threads()) {
        float const entry = kApply && args.segments > 1 ? args.carry[row.carry + n].state : 0.0f;
        shared.carry[n] = {1.0f, entry};
    }
    sync_block();
}

template <typename T, bool kColumns>
SEGC_DEVICE void store_tile(ScanArgs<T> const& args, int first, ScanShared const& shared, float (&y)[kItems]) {
    int64_t const plane = block_x() * args.length;
    int const position = first + thread_index() * kItems;
    if constexpr (kColumns) {
        sync_block();
        SEGC_UNROLL
        for (int i = 0; i < kItems; ++i) shared.first[padded(thread_index() * kItems + i)] = y[i];
        sync_block();
        float* const sum = args.columns + plane;
        for_columns(
            first, args.height, args.width, args.length, [&](int place, int offset) { sum[offset] = shared.first[padded(place)]; });
    } else {
        if (args.columns) {
            float sum[kItems];
            load_items<float>(args.columns + plane, position, args.length, args.vector, sum);
            SEGC_UNROLL
            for (int i = 0; i < kItems; ++i) y[i] += sum[i];
        }
        store_items(y, args.y + plane, position, args.length, args.vector);
    }
}

// Grid: (batch x channels, segments). Several directions only where a segment is one tile.
template <typename T, bool kColumns>
SEGC_KERNEL(kMaxScanThreads, kScanBlocks) apply_kernel(ScanArgs<T> args) {
    ScanShared const shared = scan_shared(args.states);
    int turn = 0;
    for (int step = 0; step < args.tiles_per_segment; ++step) {
        float y[kItems] = {};
        int const tile = block_y() * args.tiles_per_segment + (args.reverse ? args.tiles_per_segment - 1 - step : step);
        int const first = tile * block_threads() * kItems;
        for (int direction = 0; direction < args.directions; ++direction) {
            ScanRow const row = scan_row(args, direction);
            if (direction > 0) sync_block();
            if (step == 0) begin_carry<T, true>(args, row, shared);
            scan_tile<T, kColumns, true>(args, row, first, shared, step, turn, y);
        }
        if (first < args.length) store_tile<T, kColumns>(args, first, shared, y);
    }
}

// Grid: (batch x channels, segments, directions). Writes what each segment does to the state.
template <typename T, bool kColumns>
SEGC_KERNEL(kMaxScanThreads, kScanBlocks) summary_kernel(ScanArgs<T> args) {
    ScanShared const shared = scan_shared(args.states);
    ScanRow const row = scan_row(args, block_z());
    int turn = 0;
    float unused[kItems] = {};
    begin_carry<T, false>(args, row, shared);
    for (int step = 0; step < args.tiles_per_segment; ++step) {
        int const tile = block_y() * args.tiles_per_segment + (args.reverse ? args.tiles_per_segment - 1 - step : step);
        scan_tile<T, kColumns, false>(args, row, tile * block_threads() * kItems, shared, step, turn, unused);
    }
    sync_block();
    for (int n = thread_index(); n < args.states; n += block_threads())
        args.carry[row.carry + n] = shared.carry[(args.tiles_per_segment & 1) * args.states + n];
}

// One thread for each state of each row: replaces what a segment does by the state it starts from.
static SEGC_KERNEL(kMaxScanThreads, kScanBlocks) carry_kernel(CarryArgs args) {
    int64_t const index = block_x() * block_threads() + thread_index();
    if (index >= args.rows * args.states) return;
    int64_t const row = index / args.states;
    Pair* const first = args.carry + row * args.segments * args.states + index % args.states;
    bool const reverse = args.cross ? row / args.channels % 4 >= 2 : args.reverse;
    float state = 0.0f;
    for (int i = 0; i < args.segments; ++i) {
        Pair& segment = first[static_cast<int64_t>(reverse ? args.segments - 1 - i : i) * args.states];
        Pair const summary = segment;
        segment.state = state;
        state = summary.decay * state + summary.state;
    }
}

}  // namespace segc
