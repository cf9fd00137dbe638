// Storage types and their conversion to float, in which everything is accumulated.
#pragma once

#include "portable.h"

#ifndef SEGC_EMULATED
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace segc {

struct Half {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

struct alignas(16) Vector16 {
    uint32_t words[4];
};

template <typename To, typename From>
SEGC_DEVICE To same_bits(From const& value) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

SEGC_DEVICE float to_float(float value) { return value; }
SEGC_DEVICE float to_float(BFloat16 value) { return same_bits<float>(static_cast<uint32_t>(value.bits) << 16); }

#ifndef SEGC_EMULATED

SEGC_DEVICE float to_float(Half value) { return __half2float(__ushort_as_half(value.bits)); }
SEGC_DEVICE void from_float(float value, Half& out) { out.bits = __half_as_ushort(__float2half_rn(value)); }
SEGC_DEVICE void from_float(float value, BFloat16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

#else

inline float to_float(Half value) {
    int const exponent = (value.bits >> 10) & 31, fraction = value.bits & 1023;
    float magnitude = std::ldexp(static_cast<float>(exponent ? fraction + 1024 : fraction), (exponent ? exponent : 1) - 25);
    if (exponent == 31) magnitude = fraction ? NAN : INFINITY;
    return value.bits & 0x8000 ? -magnitude : magnitude;
}

// Round to nearest, ties to even, as the GPU does.
inline void from_float(float value, Half& out) {
    uint16_t const sign = std::signbit(value) ? 0x8000 : 0;
    float const magnitude = std::fabs(value);
    if (std::isnan(value)) {
        out.bits = 0x7fff;
    } else if (magnitude >= 65520.0f) {
        out.bits = sign | 0x7c00;
    } else if (magnitude < 6.103515625e-05f) {
        out.bits = sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
    } else {
        int exponent;
        float const fraction = std::frexp(magnitude, &exponent);
        out.bits = sign | static_cast<uint16_t>(((exponent + 13) << 10) + static_cast<int>(std::nearbyint(std::ldexp(fraction, 11))));
    }
}

inline void from_float(float value, BFloat16& out) {
    uint32_t const bits = same_bits<uint32_t>(value);
    out.bits = static_cast<uint16_t>(std::isnan(value) ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#endif

SEGC_DEVICE void from_float(float value, float& out) { out = value; }

template <typename T>
SEGC_DEVICE T as(float value) {
    T result;
    from_float(value, result);
    return result;
}

// Two neighbours in one register, the first in the low half.
template <typename T>
SEGC_DEVICE uint32_t pack(T low, T high) {
    return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
}

// Eight elements that lie together at a multiple of 16 bytes.
template <typename T>
SEGC_DEVICE void load_eight(T const* from, float (&to)[8]) {
    constexpr int kVectors = 8 * sizeof(T) / sizeof(Vector16);
    T items[8];
    for (int i = 0; i < kVectors; ++i) {
        Vector16 const vector = reinterpret_cast<Vector16 const*>(from)[i];
        memcpy(reinterpret_cast<unsigned char*>(items) + i * sizeof(Vector16), &vector, sizeof(Vector16));
    }
    for (int i = 0; i < 8; ++i) to[i] = to_float(items[i]);
}

template <typename T>
SEGC_DEVICE void store_eight(float const (&from)[8], T* to) {
    constexpr int kVectors = 8 * sizeof(T) / sizeof(Vector16);
    T items[8];
    for (int i = 0; i < 8; ++i) items[i] = as<T>(from[i]);
    for (int i = 0; i < kVectors; ++i) {
        Vector16 vector;
        memcpy(&vector, reinterpret_cast<unsigned char const*>(items) + i * sizeof(Vector16), sizeof(Vector16));
        reinterpret_cast<Vector16*>(to)[i] = vector;
    }
}

}  // namespace segc
