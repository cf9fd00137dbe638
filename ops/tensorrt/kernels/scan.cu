#include "scan.h"

#include <algorithm>

#include "scan_kernel.h"

namespace segc {
namespace {

constexpr int kMaxSegments = 64, kBlocksPerMultiprocessor = 8;

int scan_threads(int length) {
    int threads = kWarp;
    while (threads < kMaxScanThreads && threads * kItems < length) threads *= 2;
    return threads;
}

int scan_length(ScanProblem const& problem) { return problem.height * problem.width; }

int64_t scan_rows(ScanProblem const& problem) {
    return static_cast<int64_t>(problem.batch) * problem.channels * (problem.cross ? 4 : 1);
}

int scan_tiles(ScanProblem const& problem) {
    int const length = scan_length(problem);
    return divide_up(length, scan_threads(length) * kItems);
}

// A cross scan sums directions tile by tile, so that each tile is a segment; else as many as fill the GPU.
int wanted_segments(ScanProblem const& problem, int multiprocessors) {
    int const tiles = scan_tiles(problem);
    if (problem.cross) return tiles;
    int64_t const wanted = static_cast<int64_t>(multiprocessors) * kBlocksPerMultiprocessor / std::max<int64_t>(scan_rows(problem), 1);
    return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::min(tiles, kMaxSegments)));
}

size_t aligned(size_t bytes) { return divide_up<size_t>(bytes, 256) * 256; }

size_t carry_bytes(ScanProblem const& problem) {
    int const segments = problem.cross ? scan_tiles(problem) : std::min(scan_tiles(problem), kMaxSegments);
    return segments > 1 ? aligned(scan_rows(problem) * segments * problem.states * sizeof(Pair)) : 0;
}

template <typename T>
ScanArgs<T> scan_args(ScanProblem const& problem, void* workspace, int multiprocessors) {
    ScanArgs<T> args{};
    args.u = static_cast<T const*>(problem.u);
    args.delta = static_cast<T const*>(problem.delta);
    args.B = static_cast<T const*>(problem.B);
    args.C = static_cast<T const*>(problem.C);
    args.A = problem.A;
    args.D = problem.D;
    args.bias = problem.bias;
    args.y = static_cast<T*>(problem.y);
    args.channels = problem.channels;
    args.scan_channels = problem.channels * (problem.cross ? 4 : 1);
    args.groups = problem.groups;
    args.states = problem.states;
    args.length = scan_length(problem);
    args.height = problem.height;
    args.width = problem.width;
    args.softplus = problem.softplus;
    args.reverse = problem.reverse;
    args.directions = problem.cross ? 2 : 1;
    int const tiles = scan_tiles(problem);
    args.tiles_per_segment = divide_up(tiles, wanted_segments(problem, multiprocessors));
    args.segments = divide_up(tiles, args.tiles_per_segment);
    args.carry = static_cast<Pair*>(workspace);
    uintptr_t all = 0;
    for (void const* pointer : {problem.u, problem.delta, problem.B, problem.C, static_cast<void const*>(problem.y)})
        all |= reinterpret_cast<uintptr_t>(pointer);
    args.vector = args.length % kItems == 0 && all % sizeof(Vector16) == 0;
    return args;
}

template <typename T, bool kColumns>
int launch_summary(ScanArgs<T> const& args, int64_t blocks, Stream stream) {
    int const threads = scan_threads(args.length);
    return launch(summary_kernel<T, kColumns>, blocks, args.segments, args.directions, threads,
        scan_shared_bytes(args.states, threads, kColumns), stream, args);
}

template <typename T, bool kColumns>
int launch_apply(ScanArgs<T> const& args, int64_t blocks, Stream stream) {
    int const threads = scan_threads(args.length);
    return launch(apply_kernel<T, kColumns>, blocks, args.segments, 1, threads, scan_shared_bytes(args.states, threads, kColumns), stream,
        args);
}

int launch_carry(ScanProblem const& problem, Pair* carry, int segments, Stream stream) {
    CarryArgs const args{carry, scan_rows(problem), segments, problem.states, problem.channels, problem.cross, problem.reverse};
    int64_t const blocks = divide_up<int64_t>(args.rows * args.states, kMaxScanThreads);
    return launch(carry_kernel, blocks, 1, 1, kMaxScanThreads, 0, stream, args);
}

template <typename T>
int launch_sequence(ScanProblem const& problem, void* workspace, Stream stream, int multiprocessors) {
    ScanArgs<T> const args = scan_args<T>(problem, workspace, multiprocessors);
    int64_t const blocks = static_cast<int64_t>(problem.batch) * problem.channels;
    int error = 0;
    if (args.segments > 1) {
        error = launch_summary<T, false>(args, blocks, stream);
        if (!error) error = launch_carry(problem, args.carry, args.segments, stream);
    }
    return error ? error : launch_apply<T, false>(args, blocks, stream);
}

// Columns first, their sum to the workspace in float; rows add it to their own and write y once: the same sum at every run.
template <typename T>
int launch_cross(ScanProblem const& problem, void* workspace, Stream stream, int multiprocessors) {
    ScanArgs<T> rows = scan_args<T>(problem, workspace, multiprocessors);
    rows.columns = reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + carry_bytes(problem));
    ScanArgs<T> columns = rows;
    columns.first_direction = 1;
    int64_t const blocks = static_cast<int64_t>(problem.batch) * problem.channels;
    int error = 0;
    if (rows.segments > 1) {
        error = launch_summary<T, false>(rows, blocks, stream);
        if (!error) error = launch_summary<T, true>(columns, blocks, stream);
        if (!error) error = launch_carry(problem, rows.carry, rows.segments, stream);
    }
    if (!error) error = launch_apply<T, true>(columns, blocks, stream);
    return error ? error : launch_apply<T, false>(rows, blocks, stream);
}

template <typename T>
int launch_typed(ScanProblem const& problem, void* workspace, Stream stream, int multiprocessors) {
    return problem.cross ? launch_cross<T>(problem, workspace, stream, multiprocessors)
                         : launch_sequence<T>(problem, workspace, stream, multiprocessors);
}

}  // namespace

size_t scan_workspace(ScanProblem const& problem) {
    size_t const columns = static_cast<size_t>(problem.batch) * problem.channels * scan_length(problem) * sizeof(float);
    return carry_bytes(problem) + (problem.cross ? columns : 0);
}

int launch_scan(ScanProblem const& problem, void* workspace, Stream stream, int multiprocessors) {
    switch (problem.type) {
        case Type::kHalf: return launch_typed<Half>(problem, workspace, stream, multiprocessors);
        case Type::kBFloat16: return launch_typed<BFloat16>(problem, workspace, stream, multiprocessors);
        default: return launch_typed<float>(problem, workspace, stream, multiprocessors);
    }
}

}  // namespace segc
