// Neighbourhood attention on the CPU, forward and backward: what Python calls, and how the work is shared between threads.
//
// The weights of a tile are all that is kept of the windows. The backward pass computes them twice: once for the gradients of the queries, which
// also leaves three numbers a query, and once from the side of the keys, so that every result is written by one thread, and only once.
#include <omp.h>

#include "attention_worker.h"

using namespace segc;

enum Kind : int64_t { kFloat64, kFloat32, kFloat16, kBFloat16 };

struct SegcAttention {
    AttentionShape shape;
    int64_t kind, threads;
    double scale;
    Strided q, k, v, grad;       // grad: null data in the forward pass
    const void* bias;            // (heads, 2 kernel rows - 1, 2 kernel columns - 1) of the accumulation type, or null
    void *out, *dq, *dk, *dv, *dbias;  // contiguous; dbias of the accumulation type
    void* workspace;
};

namespace {

template <class T, class In> Job<T> make_job(const SegcAttention& call, Arena& arena) {
    const bool backward = call.grad.data;
    Job<T> job{Layout<T>(call.shape, backward), backward, T(call.scale), static_cast<const T*>(call.bias), call.q, call.k, call.v, call.grad,
        call.out, call.dq, call.dk, call.dv, read_part<T, In>, write_part<T, In>, {}, {}, {}, {}, {}, {}, {}};
    for (T** planes : {&job.planes_k, &job.planes_v}) *planes = arena.take<T>(job.layout.size());
    for (T** planes : {&job.planes_q, &job.planes_grad}) *planes = arena.take<T>(backward ? job.layout.size() : 0);
    for (T** values : {&job.peak, &job.share, &job.slope}) *values = arena.take<T>(job.layout.planes * job.layout.rows * job.layout.stride);
    return job;
}

template <class T, class In> void read(const Layout<T>& layout, const Strided& from, T factor, T* to) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < layout.planes * layout.rows; ++row) read_plane_row<T, In>(layout, from, row, factor, to);
}

// Calls f(plane, row, column) for every tile, in an order that keeps a thread in one column of one plane.
template <class T, class F> void over_tiles(const Layout<T>& layout, F&& f) {
    const int64_t down = (layout.rows + kTileRows - 1) / kTileRows, across = (layout.columns + layout.W - 1) / layout.W;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < layout.planes * across * down; ++i) {
        const int64_t index = i / (across * down), column = i / down % across * layout.W, row = i % down * kTileRows;
        const Plane plane = layout.plane(index);
        if (row < plane.rows && column < plane.columns) f(index, row, column);
    }
}

template <class T> void differentiate(const Job<T>& job, Worker<T>& worker, T* dbias) {
    worker.start_query_gradients();
    over_tiles(job.layout, [&](int64_t plane, int64_t row, int64_t column) { worker.query_gradient(plane, row, column); });
    const T* part = worker.finish_query_gradients();
    // One thread after the other, so that the sum does not depend on who comes first.
#pragma omp for schedule(static, 1) ordered
    for (int thread = 0; thread < omp_get_num_threads(); ++thread) {
#pragma omp ordered
        for (int64_t i = 0; i < job.bias_size(); ++i) dbias[i] += part[i];
    }
    over_tiles(job.layout, [&](int64_t plane, int64_t row, int64_t column) { worker.key_gradient(plane, row, column); });
}

// Computes, or without a workspace returns the bytes it takes.
template <class T, class In> int64_t run(const SegcAttention& call) {
    Arena arena{static_cast<char*>(call.workspace)};
    const Job<T> job = make_job<T, In>(call, arena);
    Arena probe{nullptr};
    Worker<T>(job, probe);
    if (!call.workspace) return arena.used + probe.used * call.threads;
#pragma omp parallel num_threads(call.threads)
    {
        Arena own{arena.base + arena.used + probe.used * omp_get_thread_num()};
        Worker<T> worker(job, own);
        read<T, In>(job.layout, call.k, T(1), job.planes_k);
        read<T, In>(job.layout, call.v, T(1), job.planes_v);
        if (job.backward) read<T, In>(job.layout, call.q, job.scale, job.planes_q);
        if (job.backward) read<T, In>(job.layout, call.grad, T(1), job.planes_grad);
#pragma omp barrier
        if (job.backward) differentiate(job, worker, static_cast<T*>(call.dbias));
        else over_tiles(job.layout, [&](int64_t plane, int64_t row, int64_t column) { worker.attend(plane, row, column); });
    }
    return 0;
}

}  // namespace

// Attention of `call`, its gradients where call.grad is given; the bytes of workspace it needs where call.workspace is null.
extern "C" __attribute__((visibility("default"))) int64_t segc_neighborhood_attention_2d(const SegcAttention* call) {
    switch (call->kind) {
        case kFloat64: return run<double, double>(*call);
        case kFloat32: return run<float, float>(*call);
#if SEGC_FLOAT16
        case kFloat16: return run<float, Float16>(*call);
#endif
        case kBFloat16: return run<float, BFloat16>(*call);
    }
    return -1;
}
