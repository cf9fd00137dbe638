#include "attention.h"

#include <algorithm>

#include "attention_cores.h"
#include "attention_lanes.h"

namespace segc {
namespace {

template <typename T>
AttentionArgs<T> attention_args(AttentionProblem const& problem, Extent queries, int vector) {
    AttentionArgs<T> args{};
    args.q = static_cast<T const*>(problem.q);
    args.k = static_cast<T const*>(problem.k);
    args.v = static_cast<T const*>(problem.v);
    args.rpb = problem.rpb;
    args.y = static_cast<T*>(problem.y);
    args.height = problem.height;
    args.width = problem.width;
    args.heads = problem.heads;
    args.head_dim = problem.head_dim;
    args.kernel = {problem.kernel[0], problem.kernel[1]};
    args.dilation = {problem.dilation[0], problem.dilation[1]};
    args.tiles = {divide_up(divide_up(problem.height, args.dilation.rows), queries.rows),
        divide_up(divide_up(problem.width, args.dilation.columns), queries.columns)};
    args.scale = problem.scale * 1.4426950408889634f;
    args.bias_is_float = problem.bias_is_float;
    uintptr_t all = 0;
    for (void const* pointer : {problem.q, problem.k, problem.v, static_cast<void const*>(problem.y)})
        all |= reinterpret_cast<uintptr_t>(pointer);
    args.vector = problem.head_dim % vector == 0 && all % sizeof(Vector16) == 0;
    return args;
}

template <typename T>
int64_t attention_blocks(AttentionProblem const& problem, AttentionArgs<T> const& args) {
    int64_t const tiles = static_cast<int64_t>(args.tiles.rows) * args.tiles.columns;
    return tiles * args.dilation.rows * args.dilation.columns * problem.batch * problem.heads;
}

template <typename T, int kVectors>
int launch_lanes_of(AttentionProblem const& problem, Stream stream) {
    AttentionArgs<T> args = attention_args<T>(problem, {kLaneRows, kLaneColumns}, kLaneVector);
    constexpr size_t kColumnBytes = 2 * kVectors * kLanes * kLaneVector * sizeof(T);
    args.piece = std::min<int>(kLaneColumns - 1 + args.kernel.columns, kMaxPieceBytes / kColumnBytes);
    return launch(
        lanes_kernel<T, kVectors>, attention_blocks(problem, args), 1, 1, kLaneThreads, args.piece * kColumnBytes, stream, args);
}

// Half precision comes here only where tensor cores do not serve: one kernel for every head_dim keeps the library small.
template <typename T>
int launch_lanes(AttentionProblem const& problem, Stream stream) {
    if constexpr (sizeof(T) == sizeof(float)) {
        int const vectors = divide_up(problem.head_dim, kLanes * kLaneVector);
        if (vectors <= 1) return launch_lanes_of<T, 1>(problem, stream);
        if (vectors <= 2) return launch_lanes_of<T, 2>(problem, stream);
        if (vectors <= 4) return launch_lanes_of<T, 4>(problem, stream);
    }
    return launch_lanes_of<T, 8>(problem, stream);
}

size_t table_bytes(AttentionProblem const& problem) {
    return problem.rpb ? (2 * problem.kernel[0] - 1) * (2 * problem.kernel[1] - 1) * sizeof(float) : 0;
}

template <typename T, int kChannels>
int launch_cores_of(AttentionProblem const& problem, Stream stream) {
    AttentionArgs<T> const args = attention_args<T>(problem, {kCoreRows, kCoreColumns}, 8);
    size_t const bytes = sizeof(CoreShared<T, kChannels>) + table_bytes(problem);
    return launch(cores_kernel<T, kChannels>, attention_blocks(problem, args), 1, 1, kCoreThreads, bytes, stream, args);
}

template <typename T>
int launch_cores(AttentionProblem const& problem, Stream stream) {
    if (problem.head_dim <= 32) return launch_cores_of<T, 32>(problem, stream);
    if (problem.head_dim <= 48) return launch_cores_of<T, 48>(problem, stream);
    if (problem.head_dim <= 64) return launch_cores_of<T, 64>(problem, stream);
    return launch_cores_of<T, kMaxTensorCoreHeadDim>(problem, stream);
}

// Whether the code that runs here was compiled for a GPU whose tensor cores take bfloat16: a question to the code, not to the GPU, because
// PTX of an older one may have been compiled for a newer one.
bool has_bfloat16_cores() {
#ifndef SEGC_EMULATED
    cudaFuncAttributes attributes{};
    bool const known = cudaFuncGetAttributes(&attributes, cores_kernel<BFloat16, 32>) == cudaSuccess;
    return known && attributes.ptxVersion >= 80;
#else
    return true;
#endif
}

template <typename T>
int launch_half(AttentionProblem const& problem, Stream stream, bool tensor_cores) {
    bool const fits = problem.head_dim <= kMaxTensorCoreHeadDim && table_bytes(problem) <= kMaxTableBytes;
    return tensor_cores && fits ? launch_cores<T>(problem, stream) : launch_lanes<T>(problem, stream);
}

}  // namespace

int launch_attention(AttentionProblem const& problem, Stream stream, bool tensor_cores) {
    switch (problem.type) {
        case Type::kHalf: return launch_half<Half>(problem, stream, tensor_cores);
        case Type::kBFloat16: return launch_half<BFloat16>(problem, stream, tensor_cores && has_bfloat16_cores());
        default: return launch_lanes<float>(problem, stream);
    }
}

}  // namespace segc
