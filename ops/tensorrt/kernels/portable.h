// What a kernel needs of its machine. nvcc compiles it for GPUs; with SEGC_EMULATED any C++17 compiler compiles the same kernels for the
// host, where emulate.h runs the threads of a block in turns, so that their arithmetic and their barriers are tested without a GPU.
#pragma once

#include <cmath>
#include <cstring>

#include "types.h"

#ifndef SEGC_EMULATED

#include <cuda_runtime.h>

#define SEGC_BOTH __host__ __device__
#define SEGC_DEVICE __device__ __forceinline__
#define SEGC_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define SEGC_UNROLL _Pragma("unroll")  // for loops over arrays that have to stay in registers

namespace segc {

SEGC_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
SEGC_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
SEGC_DEVICE int64_t block_x() { return blockIdx.x; }
SEGC_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
SEGC_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
SEGC_DEVICE void sync_block() { __syncthreads(); }
SEGC_DEVICE float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
SEGC_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// As exact as exp2f, which scales for the sake of results below 1e-38; here they may become 0.
SEGC_DEVICE float exp2_of(float value) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

SEGC_DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char segc_shared[];
    return segc_shared;
}

// Start a kernel that takes one structure; returns the CUDA error code.
template <typename Args>
int launch(void (*kernel)(Args), int64_t x, int y, int z, int threads, size_t shared, Stream stream, Args const& args) {
    if (x > INT32_MAX) return static_cast<int>(cudaErrorInvalidConfiguration);
    kernel<<<dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)), threads, shared, stream>>>(args);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace segc

#else

#define SEGC_BOTH
#define SEGC_DEVICE inline
#define SEGC_KERNEL(threads, blocks) void
#define SEGC_UNROLL

#include "emulate.h"

#endif

namespace segc {

constexpr int kWarp = 32;

SEGC_DEVICE int lane_index() { return thread_index() % kWarp; }

template <typename Integer>
SEGC_BOTH constexpr Integer divide_up(Integer value, Integer by) {
    return (value + by - 1) / by;
}

}  // namespace segc
