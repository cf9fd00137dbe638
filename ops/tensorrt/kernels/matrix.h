// Products on tensor cores, one warp at a time. Fragments as in the PTX manual, "Matrix fragments for mma.m16n8k16": with row = lane / 4
// and pair = lane % 4 * 2, left[0..3] hold (row, pair), (row + 8, pair), (row, pair + 8), (row + 8, pair + 8), right[0..1] hold
// (pair, row), (pair + 8, row), and the result (row, pair), (row, pair + 1), (row + 8, pair), (row + 8, pair + 1).
#pragma once

#include "numbers.h"

namespace segc {

#ifndef SEGC_EMULATED

template <typename T>
SEGC_DEVICE void multiply_add(uint32_t const (&left)[4], uint32_t const (&right)[2], float (&result)[4]);

// Turing multiplies half as deep: two steps.
template <>
SEGC_DEVICE void multiply_add<Half>(uint32_t const (&left)[4], uint32_t const (&right)[2], float (&result)[4]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(result[0]), "+f"(result[1]), "+f"(result[2]), "+f"(result[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
#else
    for (int i = 0; i < 2; ++i)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(result[0]), "+f"(result[1]), "+f"(result[2]), "+f"(result[3])
            : "r"(left[2 * i]), "r"(left[2 * i + 1]), "r"(right[i]));
#endif
}

// Turing has no such product: the launcher must not come here (``has_bfloat16_cores``).
template <>
SEGC_DEVICE void multiply_add<BFloat16>(uint32_t const (&left)[4], uint32_t const (&right)[2], float (&result)[4]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(result[0]), "+f"(result[1]), "+f"(result[2]), "+f"(result[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
#else
    __trap();
#endif
}

// The right operand of 16 rows and 8 columns that lie row by row in shared memory.
template <typename T>
SEGC_DEVICE void load_transposed(T const* tile, int stride, uint32_t (&right)[2]) {
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(tile + lane_index() % 16 * stride));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
        : "=r"(right[0]), "=r"(right[1])
        : "r"(address)
        : "memory");
}

#else

template <typename T>
float half_of(uint32_t packed, int index) {
    return to_float(T{static_cast<uint16_t>(packed >> (16 * index))});
}

template <typename T>
void multiply_add(uint32_t const (&left)[4], uint32_t const (&right)[2], float (&result)[4]) {
    struct Shown {
        uint32_t left[4], right[2];
    } shown;
    std::memcpy(shown.left, left, sizeof left);
    std::memcpy(shown.right, right, sizeof right);
    auto const& slots = emulated::exchange(shown);
    int const lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        int const row = lane / 4, upper = i / 2, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) {
            Shown one, other;
            std::memcpy(&one, slots[row * 4 + k % 8 / 2], sizeof one);
            std::memcpy(&other, slots[column * 4 + k % 8 / 2], sizeof other);
            result[i] += half_of<T>(one.left[upper + k / 8 * 2], k % 2) * half_of<T>(other.right[k / 8], k % 2);
        }
    }
}

template <typename T>
void load_transposed(T const* tile, int stride, uint32_t (&right)[2]) {
    int const row = lane_index() % 4 * 2, column = lane_index() / 4;
    for (int i = 0; i < 2; ++i) right[i] = pack(tile[(row + i * 8) * stride + column], tile[(row + i * 8 + 1) * stride + column]);
}

#endif

}  // namespace segc
