// The recurrence over one tile, for one channel and one entry of its state, forwards and backwards.
//
// Every lane first runs from zero, which tells where it ends; the lanes' beginnings follow from those ends and from the decay over
// a whole lane, exp(A sum(delta)); then every lane runs again from its beginning. Nothing is divided, so nothing overflows that
// does not in the definition.
#pragma once

#include <cmath>

#include "scan_tile.h"

namespace segc {

// Steps of a tile in the order of time: pointer offsets of the first step and between steps, and the same for lanes.
struct Order {
    int64_t steps, first, stride;
    int first_lane, lane_stride;
};

template <class T> inline Order order_of(int64_t steps, bool reverse) {
    constexpr int W = Simd<T>::width;
    if (reverse) return {steps, (steps - 1) * W, -W, W - 1, -1};
    return {steps, 0, W, 0, 1};
}

// What the tile's lanes begin with, given where they end when begun with zero; `carry` goes from before the tile to behind it.
// A product that underflows forgets an infinity, one that overflows makes NaN out of zero: then `step(state, offset)` goes every step.
template <class T, class Step> inline Vec<T> lane_beginnings(const Order& order, Vec<T> product, Vec<T> end, T& carry, Step step) {
    constexpr int W = Simd<T>::width;
    T p[W], e[W], begin[W];
    store<T>(p, product);
    store<T>(e, end);
    T state = carry;
    for (int i = 0, j = order.first_lane; i < W; ++i, j += order.lane_stride) {
        begin[j] = state;
        state = p[j] * state + e[j];
    }
    if (!std::isfinite(state)) {
        state = carry;
        for (int i = 0, j = order.first_lane; i < W; ++i, j += order.lane_stride) {
            begin[j] = state;
            for (int64_t s = 0, at = order.first + j; s < order.steps; ++s, at += order.stride) state = step(state, at);
        }
    }
    carry = state;
    return load<T>(begin);
}

// Fills decay = exp(delta A) and drive = delta u B, and gives what the lanes begin with.
template <class T>
inline Vec<T> begin_states(const Order& order, T A, const T* delta, const T* delta_u, const T* B, Vec<T> delta_sum, T* decay, T* drive, T& carry,
    const Ahead& ahead) {
    Vec<T> h = {};
    for (int64_t s = 0, at = order.first; s < order.steps; ++s, at += order.stride) {
        ahead.ask(s);
        const Vec<T> a = exp<T>(load<T>(delta + at) * A), b = load<T>(delta_u + at) * load<T>(B + at);
        store<T>(decay + at, a);
        store<T>(drive + at, b);
        h = a * h + b;
    }
    const auto step = [=](T state, int64_t at) { return decay[at] * state + drive[at]; };
    return lane_beginnings<T>(order, exp<T>(delta_sum * A), h, carry, step);
}

// y += C h over the tile.
template <class T> inline void add_output(const Order& order, Vec<T> h, const T* decay, const T* drive, const T* C, T* y) {
    for (int64_t s = 0, at = order.first; s < order.steps; ++s, at += order.stride) {
        h = load<T>(decay + at) * h + load<T>(drive + at);
        store<T>(y + at, load<T>(y + at) + load<T>(C + at) * h);
    }
}

// What a tile's gradients are computed from and added to.
template <class T> struct TileGradients {
    const T *delta, *delta_u, *dy;
    T *of_delta, *of_delta_u;
};

// From the states' beginnings h: drive becomes decay * (state before the step), and of_C += dy h.
template <class T> inline void keep_states(const Order& order, Vec<T> h, const T* decay, T* drive, const T* dy, T* of_C) {
    for (int64_t s = 0, at = order.first; s < order.steps; ++s, at += order.stride) {
        const Vec<T> kept = load<T>(decay + at) * h;
        h = kept + load<T>(drive + at);
        store<T>(drive + at, kept);
        store<T>(of_C + at, load<T>(of_C + at) + load<T>(dy + at) * h);
    }
}

// Adds one state's gradients: with g_t = C_t dy_t + decay_(t+1) g_(t+1), carried as decay_t g_t. `order` runs against time, `kept` is
// from keep_states. Returns the gradient of A.
template <class T>
inline T add_gradients(const Order& order, T A, const T* B, const T* C, Vec<T> delta_sum, const T* decay, const T* kept, T& carry, T* of_B,
    const TileGradients<T>& tile) {
    const T* const dy = tile.dy;
    Vec<T> later = {}, of_A = {};
    for (int64_t s = 0, at = order.first; s < order.steps; ++s, at += order.stride)
        later = load<T>(decay + at) * (load<T>(C + at) * load<T>(dy + at) + later);
    const auto step = [=](T state, int64_t at) { return decay[at] * (C[at] * dy[at] + state); };
    later = lane_beginnings<T>(order, exp<T>(delta_sum * A), later, carry, step);
    for (int64_t s = 0, at = order.first; s < order.steps; ++s, at += order.stride) {
        const Vec<T> g = load<T>(C + at) * load<T>(dy + at) + later;
        later = load<T>(decay + at) * g;
        store<T>(of_B + at, load<T>(of_B + at) + g * load<T>(tile.delta_u + at));
        store<T>(tile.of_delta_u + at, load<T>(tile.of_delta_u + at) + g * load<T>(B + at));
        const Vec<T> of_exponent = g * load<T>(kept + at);
        of_A += of_exponent * load<T>(tile.delta + at);
        store<T>(tile.of_delta + at, load<T>(tile.of_delta + at) + of_exponent * A);
    }
    return sum<T>(of_A);
}

}  // namespace segc
