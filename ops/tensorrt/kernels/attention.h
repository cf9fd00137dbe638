// Neighbourhood attention over a map on the GPU (arXiv 2204.07143; dilated: 2209.15001), with NATTEN's windows: shifted inside at a border.
// Plain pointers: no torch, no TensorRT.
#pragma once

#include "types.h"

namespace segc {

struct AttentionProblem {
    Type type = Type::kFloat;  // of q, k, v and y: (batch, height, width, heads, head_dim), contiguous
    int batch = 0, height = 0, width = 0, heads = 0, head_dim = 0;
    int kernel[2] = {0, 0}, dilation[2] = {1, 1};  // rows, columns
    float scale = 1.0f;
    bool bias_is_float = false;  // else rpb has the type of q
    void const *q = nullptr, *k = nullptr, *v = nullptr;
    void const* rpb = nullptr;  // (heads, 2 kernel rows - 1, 2 kernel columns - 1), or null
    void* y = nullptr;
};

constexpr int kMinKernel = 3, kMaxKernel = 63, kMaxHeadDim = 256, kMaxTensorCoreHeadDim = 128;

// Start the kernel: tensor cores where the type and head_dim allow them, ``tensor_cores`` false forbids them. Returns a CUDA error code.
int launch_attention(AttentionProblem const& problem, Stream stream, bool tensor_cores);

}  // namespace segc
