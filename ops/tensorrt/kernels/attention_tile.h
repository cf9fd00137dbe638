// The geometry both attention kernels share: a block serves one tile of queries of one head. Positions whose indices agree modulo the
// dilation form a map of their own, in which the window is dense; a tile lies in one such map, and "member" is an index in it.
#pragma once

#include "attention.h"
#include "numbers.h"

namespace segc {

struct Extent {
    int rows, columns;
};

template <typename T>
struct AttentionArgs {
    T const *q, *k, *v;
    void const* rpb;
    T* y;
    int height, width, heads, head_dim;
    Extent kernel, dilation, tiles;  // tiles: of the largest member map
    int piece;                       // columns of a halo row that fit in shared memory at a time; of the kernel without tensor cores
    float scale;                     // of the logits, in units of log 2
    bool bias_is_float, vector;
};

struct Span {
    int first, size, members, group;  // the tile's first query; its halo's size; the member map
    int halo;                         // the halo's first key
};

struct Tile {
    int64_t batch;
    int head;
    Span rows, columns;
};

SEGC_DEVICE int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// First key of a query's window.
SEGC_DEVICE int window_start(int query, int kernel, int members) { return clamp(query - kernel / 2, 0, members - kernel); }

SEGC_DEVICE Span tile_span(int tile, int group, int length, int queries, int kernel, int dilation) {
    Span span;
    span.group = group;
    span.members = (length - group + dilation - 1) / dilation;
    span.first = tile * queries;
    int const last = clamp(span.first + queries, 0, span.members) - 1;
    span.halo = window_start(span.first, kernel, span.members);
    span.size = window_start(last, kernel, span.members) + kernel - span.halo;
    return span;
}

// The block's tile; an empty one (its first query beyond the member map) has nothing to do.
template <int kRows, int kColumns, typename T>
SEGC_DEVICE bool find_tile(AttentionArgs<T> const& args, Tile& tile) {
    int64_t index = block_x();
    int const column = static_cast<int>(index % args.tiles.columns);
    index /= args.tiles.columns;
    int const row = static_cast<int>(index % args.tiles.rows);
    index /= args.tiles.rows;
    int const group_column = static_cast<int>(index % args.dilation.columns);
    index /= args.dilation.columns;
    int const group_row = static_cast<int>(index % args.dilation.rows);
    index /= args.dilation.rows;
    tile.head = static_cast<int>(index % args.heads);
    tile.batch = index / args.heads;
    tile.rows = tile_span(row, group_row, args.height, kRows, args.kernel.rows, args.dilation.rows);
    tile.columns = tile_span(column, group_column, args.width, kColumns, args.kernel.columns, args.dilation.columns);
    return tile.rows.first < tile.rows.members && tile.columns.first < tile.columns.members;
}

// Offset of a member's vector in q, k, v and y.
template <typename T>
SEGC_DEVICE int64_t member_offset(AttentionArgs<T> const& args, Tile const& tile, int row, int column) {
    int64_t const y = static_cast<int64_t>(row) * args.dilation.rows + tile.rows.group;
    int64_t const x = static_cast<int64_t>(column) * args.dilation.columns + tile.columns.group;
    return (((tile.batch * args.height + y) * args.width + x) * args.heads + tile.head) * args.head_dim;
}

// One query: where its window starts, and the bias of its first key.
struct Query {
    int row, column;  // member indices; clamped into the map where the tile reaches beyond it
    int first_row, first_column;
    int bias;
    bool inside;
};

template <typename T>
SEGC_DEVICE Query find_query(AttentionArgs<T> const& args, Tile const& tile, int row, int column) {
    Query query;
    int const y = tile.rows.first + row, x = tile.columns.first + column;
    query.inside = y < tile.rows.members && x < tile.columns.members;
    query.row = clamp(y, 0, tile.rows.members - 1);
    query.column = clamp(x, 0, tile.columns.members - 1);
    query.first_row = window_start(query.row, args.kernel.rows, tile.rows.members);
    query.first_column = window_start(query.column, args.kernel.columns, tile.columns.members);
    Extent const table{2 * args.kernel.rows - 1, 2 * args.kernel.columns - 1};
    query.bias = (tile.head * table.rows + query.first_row - query.row + args.kernel.rows - 1) * table.columns +
                 query.first_column - query.column + args.kernel.columns - 1;
    return query;
}

// One element of rpb, in units of log 2.
template <typename T>
SEGC_DEVICE float bias_at(AttentionArgs<T> const& args, int index) {
    float const bias = args.bias_is_float ? static_cast<float const*>(args.rpb)[index] : to_float(static_cast<T const*>(args.rpb)[index]);
    return bias * 1.4426950408889634f;
}

// Bias of the key at (row, column) of the window.
template <typename T>
SEGC_DEVICE float bias_of(AttentionArgs<T> const& args, Query const& query, int row, int column) {
    return args.rpb ? bias_at(args, query.bias + row * (2 * args.kernel.columns - 1) + column) : 0.0f;
}

SEGC_DEVICE float greater(float one, float other) { return fmaxf(one, other); }
SEGC_DEVICE int greater(int one, int other) { return one > other ? one : other; }
SEGC_DEVICE int lesser(int one, int other) { return one < other ? one : other; }

}  // namespace segc
