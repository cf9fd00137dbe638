// Loads and stores of every tensor type as vectors of the accumulation type.
#pragma once

#include "simd.h"

namespace segc {

struct Float16 {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

#if defined(__AVX512F__) || defined(__F16C__) || defined(__FLT16_MAX__)
#define SEGC_FLOAT16 1
#else
#define SEGC_FLOAT16 0  // callers convert
#endif

template <class T> inline Vec<T> load_as(const T* p) { return load<T>(p); }
template <class T> inline void store_as(T* p, Vec<T> v) { store<T>(p, v); }

typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t WordBits __attribute__((vector_size(kVectorBytes)));

template <class T> inline Vec<float> load_as(const BFloat16* p) {
    HalfBits half;
    std::memcpy(&half, p, sizeof half);
    return (Vec<float>)(__builtin_convertvector(half, WordBits) << 16);
}

// Rounds to nearest, ties to even; NaN keeps its upper half with the quiet bit set.
template <class T> inline void store_as(BFloat16* p, Vec<float> v) {
    const WordBits bits = (WordBits)v;
    const WordBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const HalfBits half = __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40, HalfBits);
    std::memcpy(p, &half, sizeof half);
}

#if SEGC_FLOAT16
template <class T> inline Vec<float> load_as(const Float16* p) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__) && defined(__AVX__)
    return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
    typedef _Float16 Half __attribute__((vector_size(kVectorBytes / 2)));
    Half half;
    std::memcpy(&half, p, sizeof half);
    return __builtin_convertvector(half, Vec<float>);
#endif
}

template <class T> inline void store_as(Float16* p, Vec<float> v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__) && defined(__AVX__)
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    typedef _Float16 Half __attribute__((vector_size(kVectorBytes / 2)));
    const Half half = __builtin_convertvector(v, Half);
    std::memcpy(p, &half, sizeof half);
#endif
}
#endif

}  // namespace segc
