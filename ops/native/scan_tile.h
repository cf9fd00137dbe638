// A sequence as tiles: `width` lanes side by side, each a stretch of consecutive steps, lane after lane in the order of the sequence.
//
// Along the rows of a map (or any plain sequence) a tile is width * steps consecutive elements, transposed while it is read; along the
// columns it is `width` columns, which lie side by side in memory already. The kernels see no difference.
#pragma once

#include <algorithm>
#include <cstdint>

#include "convert.h"

namespace segc {

constexpr int64_t kMostSteps = 32;  // of a transposed tile: the eight that one state works on then take half of a first cache

struct Path {
    bool columns, reverse;
    int64_t length, width;  // of the whole sequence, and of the map where columns are followed
    int64_t steps, tiles;   // steps of a lane
};

template <class T> Path sequence_path(int64_t length, bool reverse) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t even = (length + W - 1) / W;
    const int64_t steps = std::min((even + W - 1) / W * W, kMostSteps);
    return {false, reverse, length, length, steps, (length + W * steps - 1) / (W * steps)};
}

// Directions in the order of VMamba: rows, columns, rows reversed, columns reversed.
template <class T> Path map_path(int64_t direction, int64_t height, int64_t width) {
    constexpr int64_t W = Simd<T>::width;
    if (direction % 2 == 0) return sequence_path<T>(height * width, direction >= 2);
    return {true, direction >= 2, height * width, width, height, (width + W - 1) / W};
}

template <class T, class In> void read_columns(const Path& path, int64_t index, const In* from, T* tile) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t lanes = std::min(W, path.width - index * W);
    from += index * W;
    for (int64_t s = 0; s < path.steps; ++s, from += path.width, tile += W) {
        if (lanes == W) {
            store<T>(tile, load_as<T>(from));
            continue;
        }
        In part[W] = {};
        std::copy_n(from, lanes, part);
        store<T>(tile, load_as<T>(part));
    }
}

template <class T, class In> void read_rows(const Path& path, int64_t index, const In* from, T* tile) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t size = W * path.steps, valid = std::min(size, path.length - index * size);
    In padded[W * kMostSteps];
    from += index * size;
    if (valid < size) {
        std::fill(std::copy_n(from, valid, padded), padded + size, In{});
        from = padded;
    }
    for (int64_t s = 0; s < path.steps; s += W) {
        Vec<T> rows[W];
        for (int64_t j = 0; j < W; ++j) rows[j] = load_as<T>(from + j * path.steps + s);
        transpose<T>(rows);
        for (int64_t i = 0; i < W; ++i) store<T>(tile + (s + i) * W, rows[i]);
    }
}

// Reads tile `index` of a sequence to tile[step][lane]; zero where the sequence has ended.
template <class T, class In> void read_tile(const Path& path, int64_t index, const In* from, T* tile) {
    path.columns ? read_columns<T>(path, index, from, tile) : read_rows<T>(path, index, from, tile);
}

// Lines of memory that will be needed soon, asked for one by one while something else is computed: the processor does not foresee the
// order in which channels are gone through.
struct Ahead {
    const char *first, *second, *third;
    int64_t first_stride, third_stride;

    // Asks for what is in the cache anyway.
    static Ahead nothing(const void* near) {
        const auto place = static_cast<const char*>(near);
        return {place, place, place, 0, 0};
    }

    void ask(int64_t step) const {
        __builtin_prefetch(first + step * first_stride);
        __builtin_prefetch(second + step * first_stride);
        __builtin_prefetch(third + step * third_stride, 1);
    }
};

// Two tensors to read and one to write, each at its beginning; a tile of as many steps as it has lines.
template <class T, class In, class Out> Ahead ahead_of(const Path& path, int64_t index, const In* first, const In* second, const Out* third) {
    const int64_t step = path.columns ? path.width : Simd<T>::width, start = index * (path.columns ? Simd<T>::width : path.steps * Simd<T>::width);
    const auto place = [=](const auto* tensor) { return reinterpret_cast<const char*>(tensor + start); };
    return {place(first), place(second), place(third), step * int64_t(sizeof(In)), step * int64_t(sizeof(Out))};
}

template <bool kAdd, class T, class Out> inline void put(Out* to, Vec<T> v) {
    if constexpr (kAdd) v += load_as<T>(to);
    store_as<T>(to, v);
}

template <bool kAdd, class T, class Out> void write_columns(const Path& path, int64_t index, const T* tile, Out* to) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t lanes = std::min(W, path.width - index * W);
    to += index * W;
    for (int64_t s = 0; s < path.steps; ++s, to += path.width, tile += W) {
        if (lanes == W) {
            put<kAdd, T>(to, load<T>(tile));
            continue;
        }
        Out part[W] = {};
        std::copy_n(to, lanes, part);
        put<kAdd, T>(part, load<T>(tile));
        std::copy_n(part, lanes, to);
    }
}

template <bool kAdd, class T, class Out> void write_rows(const Path& path, int64_t index, const T* tile, Out* to) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t size = W * path.steps, valid = std::min(size, path.length - index * size);
    Out padded[W * kMostSteps];
    Out* const place = to + index * size;
    to = place;
    if (valid < size) {
        std::fill(std::copy_n(place, valid, padded), padded + size, Out{});
        to = padded;
    }
    for (int64_t s = 0; s < path.steps; s += W) {
        Vec<T> rows[W];
        for (int64_t i = 0; i < W; ++i) rows[i] = load<T>(tile + (s + i) * W);
        transpose<T>(rows);
        for (int64_t j = 0; j < W; ++j) put<kAdd, T>(to + j * path.steps + s, rows[j]);
    }
    if (valid < size) std::copy_n(padded, valid, place);
}

// Writes tile[step][lane] back to its place in the sequence, or adds it there.
template <class T, class Out> void write_tile(const Path& path, int64_t index, const T* tile, Out* to, bool add = false) {
    if (path.columns) add ? write_columns<true>(path, index, tile, to) : write_columns<false>(path, index, tile, to);
    else add ? write_rows<true>(path, index, tile, to) : write_rows<false>(path, index, tile, to);
}

}  // namespace segc
