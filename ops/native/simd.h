// Vectors of the widest kind the processor has, with exp, softplus and transposition, in GCC's and clang's vector extensions.
//
// Accuracy, measured in tests/ops/test_ops_native.py: exp within 1.5 units in the last place, softplus within 4. NaN gives NaN, exp(inf) = inf, exp(-inf) = 0;
// results below the smallest normal number are denormal, not zero.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace segc {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct Simd;

template <> struct Simd<float> {
    typedef float V __attribute__((vector_size(kVectorBytes)));
    typedef int32_t I __attribute__((vector_size(kVectorBytes)));
    static constexpr int width = kVectorBytes / 4;
    static constexpr int mantissa_bits = 23, exponent_bias = 127;
    static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, which the low bits then hold
    static constexpr float exp_low = -104.0f, exp_high = 89.0f;
    static constexpr float ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
    // Minimax on |r| <= ln(2) / 2, of (exp(r) - 1) / r, and on s^2 <= 1/9, of atanh(s) / s.
    static constexpr float exp_poly[] = {1.0f, 0.500000001353872989f, 0.166665046130326106f, 0.0416664641974056923f, 0.00836922029180360742f, 0.00139337307157920825f};
    static constexpr float atanh_poly[] = {1.0f, 0.333333395165007763f, 0.199993553459493563f, 0.143101117315319447f, 0.106991870414723083f, 0.121973279307557969f};
};

template <> struct Simd<double> {
    typedef double V __attribute__((vector_size(kVectorBytes)));
    typedef int64_t I __attribute__((vector_size(kVectorBytes)));
    static constexpr int width = kVectorBytes / 8;
    static constexpr int mantissa_bits = 52, exponent_bias = 1023;
    static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double exp_low = -746.0, exp_high = 710.0;
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double exp_poly[] = {1.0, 0.5, 0.166666666666666809, 0.0416666666666666769, 0.00833333333331949032, 0.00138888888888790031,
        0.000198412698903406653, 0.000024801587336630947, 2.75572406046638958e-6, 2.75572630773094115e-7, 2.51101536469289314e-8, 2.09182123191339782e-9};
    static constexpr double atanh_poly[] = {1.0, 0.333333333333333417, 0.199999999999964296, 0.142857142863120415, 0.111111110595071616, 0.0909091171325394567,
        0.0769222347429845778, 0.0666843940546757405, 0.0585762594215650935, 0.054883888550576809, 0.0348987435884715301, 0.0824469375080401605};
};

template <class T> using Vec = typename Simd<T>::V;
template <class T> using IVec = typename Simd<T>::I;

template <class T> inline Vec<T> load(const T* p) {
    Vec<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class T> inline void store(T* p, Vec<T> v) { std::memcpy(p, &v, sizeof v); }

template <class T> inline Vec<T> splat(T x) { return x - Vec<T>{}; }  // x - 0, not x + 0: -0 stays -0

template <class T> inline T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < Simd<T>::width; ++i) total += v[i];
    return total;
}

// Bounded from above and from below; NaN stays NaN, as it does in x86's instructions when it is their second operand.
#ifdef __AVX512F__
inline Vec<float> at_most(Vec<float> x, float bound) { return (Vec<float>)_mm512_min_ps(_mm512_set1_ps(bound), (__m512)x); }
inline Vec<float> at_least(Vec<float> x, float bound) { return (Vec<float>)_mm512_max_ps(_mm512_set1_ps(bound), (__m512)x); }
inline Vec<double> at_most(Vec<double> x, double bound) { return (Vec<double>)_mm512_min_pd(_mm512_set1_pd(bound), (__m512d)x); }
inline Vec<double> at_least(Vec<double> x, double bound) { return (Vec<double>)_mm512_max_pd(_mm512_set1_pd(bound), (__m512d)x); }
#else
template <class V, class T> inline V at_most(V x, T bound) { return x > bound ? bound - V{} : x; }
template <class V, class T> inline V at_least(V x, T bound) { return x < bound ? bound - V{} : x; }
#endif

template <class T, int N> inline Vec<T> horner(const T (&c)[N], Vec<T> x) {
    Vec<T> p = splat<T>(c[N - 1]);
    for (int i = N - 2; i >= 0; --i) p = p * x + c[i];
    return p;
}

// p * 2^n. `biased` is n + round_magic, whose low bits are n; two factors, so that a denormal result is rounded once and 2^128 is reached.
template <class T> inline Vec<T> scale_by_power(Vec<T> p, Vec<T> n, Vec<T> biased) {
#ifdef __AVX512F__
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_scalef_ps((__m512)p, (__m512)n);
    else return (Vec<T>)_mm512_scalef_pd((__m512d)p, (__m512d)n);
#else
    (void)n;
    const IVec<T> whole = (IVec<T>)biased - (IVec<T>)splat<T>(Simd<T>::round_magic);
    const IVec<T> half = whole >> 1, rest = whole - half;
    const Vec<T> first = (Vec<T>)((half + Simd<T>::exponent_bias) << Simd<T>::mantissa_bits);
    const Vec<T> second = (Vec<T>)((rest + Simd<T>::exponent_bias) << Simd<T>::mantissa_bits);
    return p * first * second;
#endif
}

// e^x: Cody and Waite's reduction to |r| <= ln(2) / 2, a polynomial, and a power of two.
template <class T> inline Vec<T> exp(Vec<T> x) {
    using S = Simd<T>;
    const Vec<T> bounded = at_most(at_least(x, S::exp_low), S::exp_high);
    const Vec<T> biased = bounded * T(1.4426950408889634) + S::round_magic;
    const Vec<T> n = biased - S::round_magic;
    const Vec<T> r = (bounded - n * S::ln2_high) - n * S::ln2_low;
    return scale_by_power<T>(r * horner<T>(S::exp_poly, r) + T(1), n, biased);
}

// log(1 + e^x), and x above 20 as torch has it: max(x, 0) + log1p(e^-|x|), with log1p(z) = 2 atanh(z / (2 + z)).
template <class T> inline Vec<T> softplus(Vec<T> x) {
    const Vec<T> z = exp<T>(x > T(0) ? -x : x);
    const Vec<T> s = z / (z + T(2));
    const Vec<T> y = at_least(x, T(0)) + (s + s) * horner<T>(Simd<T>::atanh_poly, s * s);
    return x > T(20) ? x : y;
}

// The derivative of softplus: 1 / (1 + e^-x), and 1 above 20.
template <class T> inline Vec<T> softplus_slope(Vec<T> x) {
    const Vec<T> z = exp<T>(x > T(0) ? -x : x);
    const Vec<T> slope = (x > T(0) ? splat<T>(1) : z) / (z + T(1));
    return x > T(20) ? splat<T>(1) : slope;
}

#if defined(__clang__) || __GNUC__ >= 12
#define SEGC_INTERLEAVE(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SEGC_INTERLEAVE(...) __builtin_shuffle(a, b, IVec<T>{__VA_ARGS__})
#endif

// Low and high half of a0 b0 a1 b1 ...
template <class T> inline void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high) {
    constexpr int W = Simd<T>::width;
    if constexpr (W == 16) {
        low = SEGC_INTERLEAVE(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        high = SEGC_INTERLEAVE(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    } else if constexpr (W == 8) {
        low = SEGC_INTERLEAVE(0, 8, 1, 9, 2, 10, 3, 11);
        high = SEGC_INTERLEAVE(4, 12, 5, 13, 6, 14, 7, 15);
    } else if constexpr (W == 4) {
        low = SEGC_INTERLEAVE(0, 4, 1, 5);
        high = SEGC_INTERLEAVE(2, 6, 3, 7);
    } else {
        low = SEGC_INTERLEAVE(0, 2);
        high = SEGC_INTERLEAVE(1, 3);
    }
}

#undef SEGC_INTERLEAVE

// Transposes a square of width x width in place: log2(width) perfect shuffles of rows i and i + width / 2.
template <class T> inline void transpose(Vec<T> (&rows)[Simd<T>::width]) {
    constexpr int W = Simd<T>::width;
    for (int stage = 1; stage < W; stage *= 2) {
        Vec<T> next[W];
        for (int i = 0; i < W / 2; ++i) interleave<T>(rows[i], rows[i + W / 2], next[2 * i], next[2 * i + 1]);
        for (int i = 0; i < W; ++i) rows[i] = next[i];
    }
}

}  // namespace segc
