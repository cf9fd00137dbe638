// Selective scan and cross selective scan on the GPU: h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t, y_t = C_t h_t + D u_t (Mamba,
// arXiv 2312.00752; cross scan: VMamba, 2401.10166). Plain pointers: no torch, no TensorRT.
#pragma once

#include "types.h"

namespace segc {

// A sequence is a map of one row; a cross scan runs along rows, columns and both reversed, and sums. All tensors are contiguous.
struct ScanProblem {
    Type type = Type::kFloat;                // of u, delta, B, C and y
    int batch = 0, channels = 0;             // of u and y: (batch, channels, height, width)
    int height = 1, width = 0;
    int states = 0, groups = 0;              // B, C: (batch, groups, states, height, width); a cross scan has 4 groups
    bool cross = false;                      // delta, A, D and bias then have 4 x channels
    bool softplus = false, reverse = false;  // a cross scan takes no reverse
    void const *u = nullptr, *delta = nullptr, *B = nullptr, *C = nullptr;
    float const *A = nullptr, *D = nullptr, *bias = nullptr;  // D and bias may be null
    void* y = nullptr;
};

// Bytes of workspace for these dimensions; grows with each of them, so that the bound for the largest shapes serves all.
size_t scan_workspace(ScanProblem const& problem);

// Start the kernels; ``multiprocessors`` of the GPU decides how finely long sequences are cut. Returns a CUDA error code, 0 for success.
int launch_scan(ScanProblem const& problem, void* workspace, Stream stream, int multiprocessors);

}  // namespace segc
