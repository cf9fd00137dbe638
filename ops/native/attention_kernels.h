// The two sums neighbourhood attention is made of, over a tile of kTileRows rows and one vector of columns ("centres") and their "partners".
//
// Forward, the centres are queries and the partners keys; for the gradients of keys and values it is the other way round. Every lane holds a
// column, so that both sums are plain multiply-adds, and a row of partners that was loaded serves all the rows of the tile.
#pragma once

#include <type_traits>

#include "attention_map.h"

namespace segc {

#if defined(__AVX512F__) || defined(__aarch64__)  // 32 vector registers
constexpr int kTileRows = 4, kBlock = 6;
#else
constexpr int kTileRows = 2, kBlock = 4;
#endif

// Partner `j` of every lane, from a row of partners that starts at that of lane 0: side by side, ...
template <class T> struct Plain {
    Vec<T> operator()(const T* row, int64_t j) const { return load<T>(row + j); }
};

// ... bunched at a border, where the windows of neighbouring queries coincide, ...
template <class T> struct Bunched {
    IVec<T> lanes;
    Vec<T> operator()(const T* row, int64_t j) const {
        const Vec<T> v = load<T>(row + j);
#if defined(__clang__)
        Vec<T> picked;
        for (int i = 0; i < Simd<T>::width; ++i) picked[i] = v[lanes[i]];
        return picked;
#else
        return __builtin_shuffle(v, lanes);
#endif
    }
};

// ... or side by side, and zero where the two do not see each other, so that a NaN there stays there.
template <class T> struct Masked {
    const IVec<T>* seen;
    Vec<T> operator()(const T* row, int64_t j) const { return (Vec<T>)((IVec<T>)load<T>(row + j) & seen[j]); }
};

// Keeps a value in a register: the compiler would load it again for every row it is multiplied with.
template <class V> inline void hold(V& v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
}

// Calls f with n, 1 to N, as a constant.
template <int N, class F> inline void with_constant(int64_t n, F&& f) {
    if constexpr (N > 1) {
        if (n < N) return with_constant<N - 1>(n, f);
    }
    f(std::integral_constant<int, N>{});
}

// Calls f(first, size) for near-equal parts of at most kBlock.
template <class F> inline void in_blocks(int64_t count, F&& f) {
    const int64_t blocks = (count + kBlock - 1) / kBlock;
    for (int64_t b = 0, first = 0; b < blocks; ++b) {
        const int64_t size = count / blocks + (b < count % blocks);
        f(first, size);
        first += size;
    }
}

// The products over the channels of R centres and partners j to j + N - 1 of one row, added to `init` (null: to 0).
template <class T, int R, int N, class Access>
__attribute__((noinline)) void dots(const Vec<T>* const* centres, const T* partners, int64_t stride, int64_t dim, const Access& at, int64_t j, const Vec<T>* const* init, Vec<T>* const* out) {
    Vec<T> acc[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) acc[r][n] = init[r] ? init[r][j + n] : Vec<T>{};
    for (int64_t c = 0; c < dim; ++c, partners += stride) {
        Vec<T> partner[N];
        for (int n = 0; n < N; ++n) hold(partner[n] = at(partners, j + n));
        for (int r = 0; r < R; ++r) {
            const Vec<T> centre = centres[r][c];
            for (int n = 0; n < N; ++n) acc[r][n] += centre * partner[n];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) out[r][j + n] = acc[r][n];
}

// Adds to N channels of R centres their `rows` x `count` partners, each times its weight.
template <class T, int R, int N, class Access>
__attribute__((noinline)) void sums(const Vec<T>* const* weights, const T* partners, int64_t row_size, int64_t stride, int64_t rows, int64_t count, const Access& at, int64_t channel, Vec<T>* const* out) {
    Vec<T> acc[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) acc[r][n] = out[r][channel + n];
    const T* row = partners + channel * stride;
    for (int64_t i = 0, w = 0; i < rows; ++i, row += row_size) {
        for (int64_t j = 0; j < count; ++j, ++w) {
            Vec<T> partner[N];
            for (int n = 0; n < N; ++n) hold(partner[n] = at(row + n * stride, j));
            for (int r = 0; r < R; ++r) {
                const Vec<T> weight = weights[r][w];
                for (int n = 0; n < N; ++n) acc[r][n] += weight * partner[n];
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) out[r][channel + n] = acc[r][n];
}

}  // namespace segc
