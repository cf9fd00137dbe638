// Selective scan on the CPU, forwards and backwards, along a sequence or along the four directions of a map.
//
// A thread takes (batch, group, some channels) and goes through the sequence tile by tile: B and C of a tile are read once for all channels.
#include <memory>
#include <new>
#include <utility>

#include "scan_state.h"

namespace segc {
namespace {

// Mirrored in ops/native/scan.py. Strides are in elements; along its length, or its height and width, every tensor is contiguous.
struct Call {
    const void *u, *delta, *A, *B, *C, *D, *bias, *grad;
    void *y, *of_u, *of_delta, *of_A, *of_B, *of_C, *of_D, *of_bias;
    int64_t u_batch, u_channel, delta_batch, delta_channel, grad_batch, grad_channel;
    int64_t B_batch, B_group, B_state, C_batch, C_group, C_state;
    int64_t batch, groups, members, states, height, width;  // height 1 for a sequence
    int64_t blocks;                                        // into which the members of a group are cut
    int64_t softplus, reverse, cross, threads, dtype;
};

struct Item {
    int64_t batch, group, block, first, count;  // members first .. first + count - 1
};

Item item_of(const Call& call, int64_t index, int64_t groups) {
    const int64_t block = index % call.blocks, group = index / call.blocks % groups, batch = index / call.blocks / groups;
    const int64_t first = call.members * block / call.blocks, next = call.members * (block + 1) / call.blocks;
    return {batch, group, block, first, next - first};
}

// Room for tiles, which a thread keeps from one item to the next.
template <class T> class Scratch {
  public:
    // Gives a function that hands out so many of the tiles, one run of them after the other.
    auto tiles(int64_t count, const Path& path) {
        const int64_t tile = path.steps * Simd<T>::width;
        if (count * tile > size_) {
            size_ = count * tile;
            room_.reset(static_cast<T*>(::operator new(size_ * sizeof(T), std::align_val_t(64))));
        }
        return [tile, free = room_.get()](int64_t run) mutable { return std::exchange(free, free + run * tile); };
    }

  private:
    struct Free {
        void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    std::unique_ptr<T, Free> room_;
    int64_t size_ = 0;
};

// One channel's tensors in an item. In a map the four directions share u and y.
template <class T, class In> struct Channel {
    int64_t row, plane;  // of delta and the weights, and of u and y; both within the batch
    const In *u, *delta;
    T D, bias;

    Channel(const Call& call, const Item& item, int64_t member)
        : row(item.group * call.members + item.first + member), plane(call.cross ? item.first + member : row),
          u(static_cast<const In*>(call.u) + item.batch * call.u_batch + plane * call.u_channel),
          delta(static_cast<const In*>(call.delta) + item.batch * call.delta_batch + row * call.delta_channel),
          D(call.D ? static_cast<const T*>(call.D)[row] : T(0)), bias(call.bias ? static_cast<const T*>(call.bias)[row] : T(0)) {}
};

template <class T> Path path_of(const Call& call, int64_t group) {
    return call.cross ? map_path<T>(group, call.height, call.width) : sequence_path<T>(call.width, call.reverse);
}

// What every state of a channel needs of a tile: the step sizes, their sum over each lane, u and its product with them.
template <class T> struct Steps {
    T *delta, *u, *delta_u;
    Vec<T> delta_sum;
};

// Behind the end of the sequence a step has size zero and changes nothing.
template <class T> void stop_behind_end(const Path& path, int64_t index, Steps<T>& tile) {
    constexpr int64_t W = Simd<T>::width;
    const int64_t valid = path.length - index * W * path.steps;
    for (int64_t j = valid / path.steps; j < W; ++j)
        for (int64_t s = std::max<int64_t>(0, valid - j * path.steps); s < path.steps; ++s) tile.delta[s * W + j] = tile.delta_u[s * W + j] = 0;
    tile.delta_sum = Vec<T>{};
    for (int64_t at = 0; at < path.steps * W; at += W) tile.delta_sum += load<T>(tile.delta + at);
}

// Reads u and delta and applies bias and softplus; keeps the slope of softplus where a place is given.
template <class T, class In> void read_steps(const Call& call, const Path& path, int64_t index, const Channel<T, In>& channel, Steps<T>& to, T* slope) {
    read_tile<T>(path, index, channel.delta, to.delta);
    read_tile<T>(path, index, channel.u, to.u);
    to.delta_sum = Vec<T>{};
    for (int64_t at = 0; at < path.steps * Simd<T>::width; at += Simd<T>::width) {
        const Vec<T> raw = load<T>(to.delta + at) + channel.bias, delta = call.softplus ? softplus<T>(raw) : raw;
        to.delta_sum += delta;
        store<T>(to.delta + at, delta);
        store<T>(to.delta_u + at, delta * load<T>(to.u + at));
        if (slope) store<T>(slope + at, call.softplus ? softplus_slope<T>(raw) : splat<T>(1));
    }
    if (path.length < (index + 1) * path.steps * Simd<T>::width) stop_behind_end<T>(path, index, to);
}

// D x, and zero without D, whatever x is.
template <class T> void skip(const Call& call, const Path& path, const T* x, T D, T* out) {
    for (int64_t at = 0; at < path.steps * Simd<T>::width; at += Simd<T>::width) store<T>(out + at, call.D ? load<T>(x + at) * D : Vec<T>{});
}

// Tiles of B (or C) for every state of a group.
template <class T, class In>
void read_states(const Call& call, const Path& path, int64_t index, const void* from, int64_t offset, int64_t stride, T* tiles) {
    for (int64_t n = 0; n < call.states; ++n)
        read_tile<T>(path, index, static_cast<const In*>(from) + offset + n * stride, tiles + n * path.steps * Simd<T>::width);
}

template <class T, class In, class Out> void forward(const Call& call, const Item& item, Scratch<T>& scratch) {
    const Path path = path_of<T>(call, item.group);
    const Order order = order_of<T>(path.steps, path.reverse);
    const int64_t N = call.states, size = path.steps * Simd<T>::width;
    auto next = scratch.tiles(2 * N + 6, path);
    T *const B = next(N), *const C = next(N), *const y = next(1), *const decay = next(1), *const drive = next(1);
    Steps<T> steps{next(1), next(1), next(1), {}};
    const T* const A = static_cast<const T*>(call.A);
    const std::unique_ptr<T[]> carry(new T[item.count * N]());
    const int64_t planes = call.cross ? call.members : call.groups * call.members;
    const auto output = [&](const Channel<T, In>& channel) { return static_cast<Out*>(call.y) + (item.batch * planes + channel.plane) * path.length; };
    for (int64_t i = 0; i < path.tiles; ++i) {
        const int64_t index = path.reverse ? path.tiles - 1 - i : i;
        read_states<T, In>(call, path, index, call.B, item.batch * call.B_batch + item.group * call.B_group, call.B_state, B);
        read_states<T, In>(call, path, index, call.C, item.batch * call.C_batch + item.group * call.C_group, call.C_state, C);
        for (int64_t m = 0; m < item.count; ++m) {
            const Channel<T, In> channel(call, item, m), following(call, item, std::min(m + 1, item.count - 1));
            Ahead ahead = ahead_of<T>(path, index, following.u, following.delta, output(following));
            read_steps<T>(call, path, index, channel, steps, static_cast<T*>(nullptr));
            skip<T>(call, path, steps.u, channel.D, y);
            for (int64_t n = 0; n < N; ++n) {
                const T a = A[channel.row * N + n];
                const Vec<T> h = begin_states<T>(order, a, steps.delta, steps.delta_u, B + n * size, steps.delta_sum, decay, drive, carry[m * N + n], ahead);
                add_output<T>(order, h, decay, drive, C + n * size, y);
                ahead = Ahead::nothing(y);
            }
            write_tile<T>(path, index, y, output(channel), call.cross && item.group > 0);
        }
    }
}

// Runs forward without output and keeps what every tile begins with: (tiles, channels of the item, states).
template <class T, class In> std::unique_ptr<T[]> tile_beginnings(const Call& call, const Path& path, const Item& item, Scratch<T>& scratch) {
    const Order order = order_of<T>(path.steps, path.reverse);
    const int64_t N = call.states, size = path.steps * Simd<T>::width, row = item.count * N;
    auto next = scratch.tiles(N + 5, path);
    T *const B = next(N), *const decay = next(1), *const drive = next(1);
    Steps<T> steps{next(1), next(1), next(1), {}};
    const T* const A = static_cast<const T*>(call.A);
    std::unique_ptr<T[]> kept(new T[(path.tiles + 1) * row]());
    for (int64_t i = 0; i < path.tiles; ++i) {
        const int64_t index = path.reverse ? path.tiles - 1 - i : i;
        read_states<T, In>(call, path, index, call.B, item.batch * call.B_batch + item.group * call.B_group, call.B_state, B);
        T* const carry = std::copy_n(&kept[i * row], row, &kept[(i + 1) * row]) - row;
        for (int64_t m = 0; m < item.count; ++m) {
            const Channel<T, In> channel(call, item, m);
            read_steps<T>(call, path, index, channel, steps, static_cast<T*>(nullptr));
            for (int64_t n = 0; n < N; ++n)
                begin_states<T>(order, A[channel.row * N + n], steps.delta, steps.delta_u, B + n * size, steps.delta_sum, decay, drive, carry[m * N + n],
                    Ahead::nothing(drive));
        }
    }
    return kept;
}

// du = D dy + g delta, ddelta = (of_delta + g u) slope, where g is the gradient of delta u. Adds to the gradients of D and bias.
template <class T>
void finish_channel(const Path& path, const T* u, const T* slope, T D, const TileGradients<T>& tile, T* of_u, T* of_D, T* of_bias) {
    Vec<T> sum_D = {}, sum_bias = {};
    for (int64_t at = 0; at < path.steps * Simd<T>::width; at += Simd<T>::width) {
        const Vec<T> x = load<T>(u + at), dy = load<T>(tile.dy + at), g = load<T>(tile.of_delta_u + at);
        const Vec<T> of_raw = (load<T>(tile.of_delta + at) + g * x) * load<T>(slope + at);
        store<T>(of_u + at, dy * D + g * load<T>(tile.delta + at));
        store<T>(tile.of_delta + at, of_raw);
        sum_D += dy * x;
        sum_bias += of_raw;
    }
    *of_D += sum<T>(sum_D);
    *of_bias += sum<T>(sum_bias);
}

template <class T, class In, class Out> void backward(const Call& call, const Item& item, Scratch<T>& scratch) {
    const Path path = path_of<T>(call, item.group);
    const Order order = order_of<T>(path.steps, path.reverse), against = order_of<T>(path.steps, !path.reverse);
    const int64_t N = call.states, size = path.steps * Simd<T>::width, rows = call.groups * call.members;
    const std::unique_ptr<T[]> kept = tile_beginnings<T, In>(call, path, item, scratch), carry(new T[item.count * N]());
    auto next = scratch.tiles(4 * N + 10, path);
    T *const B = next(N), *const C = next(N), *const of_B = next(N), *const of_C = next(N), *const decay = next(1), *const drive = next(1);
    T *const slope = next(1), *const dy = next(1), *const of_u = next(1), *const of_delta = next(1), *const of_delta_u = next(1);
    Steps<T> steps{next(1), next(1), next(1), {}};
    const TileGradients<T> tile{steps.delta, steps.delta_u, dy, of_delta, of_delta_u};
    const T* const A = static_cast<const T*>(call.A);
    const int64_t planes = call.cross ? call.members : rows;
    for (int64_t i = path.tiles - 1; i >= 0; --i) {
        const int64_t index = path.reverse ? path.tiles - 1 - i : i;
        read_states<T, In>(call, path, index, call.B, item.batch * call.B_batch + item.group * call.B_group, call.B_state, B);
        read_states<T, In>(call, path, index, call.C, item.batch * call.C_batch + item.group * call.C_group, call.C_state, C);
        std::fill_n(of_B, 2 * N * size, T(0));
        for (int64_t m = 0; m < item.count; ++m) {
            const Channel<T, In> channel(call, item, m);
            const int64_t row = item.batch * rows + channel.row;
            read_steps<T>(call, path, index, channel, steps, slope);
            read_tile<T>(path, index, static_cast<const In*>(call.grad) + item.batch * call.grad_batch + channel.plane * call.grad_channel, dy);
            std::fill_n(of_delta, 2 * size, T(0));
            for (int64_t n = 0; n < N; ++n) {
                const T a = A[channel.row * N + n];
                T before = kept[(i * item.count + m) * N + n];
                const Vec<T> h = begin_states<T>(
                    order, a, steps.delta, steps.delta_u, B + n * size, steps.delta_sum, decay, drive, before, Ahead::nothing(drive));
                keep_states<T>(order, h, decay, drive, dy, of_C + n * size);
                static_cast<T*>(call.of_A)[row * N + n] += add_gradients<T>(
                    against, a, B + n * size, C + n * size, steps.delta_sum, decay, drive, carry[m * N + n], of_B + n * size, tile);
            }
            finish_channel<T>(path, steps.u, slope, channel.D, tile, of_u, static_cast<T*>(call.of_D) + row, static_cast<T*>(call.of_bias) + row);
            Out* const to = static_cast<Out*>(call.of_u) + (item.batch * planes + channel.plane) * path.length;
            write_tile<T>(path, index, of_u, to, call.cross && item.group > 0);
            write_tile<T>(path, index, of_delta, static_cast<In*>(call.of_delta) + row * path.length);
        }
        const int64_t group = ((item.block * call.batch + item.batch) * call.groups + item.group) * N;
        for (int64_t n = 0; n < N; ++n) {
            write_tile<T>(path, index, of_B + n * size, static_cast<T*>(call.of_B) + (group + n) * path.length);
            write_tile<T>(path, index, of_C + n * size, static_cast<T*>(call.of_C) + (group + n) * path.length);
        }
    }
}

// In a map one thread goes all four directions of its channels, whose results it adds.
template <class T, class Work> void for_each_item(const Call& call, Work work) {
    const int64_t groups = call.cross ? 1 : call.groups, directions = call.cross ? call.groups : 1;
    const int64_t items = call.batch * groups * call.blocks;
#pragma omp parallel num_threads(static_cast<int>(call.threads))
    {
        Scratch<T> scratch;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; ++i) {
            Item item = item_of(call, i, groups);
            for (int64_t direction = 0; direction < directions; ++direction) {
                if (call.cross) item.group = direction;
                work(item, scratch);
            }
        }
    }
}

template <class T, class In> void run(const Call& call) {
    for_each_item<T>(call, [&](const Item& item, Scratch<T>& scratch) {
        if (call.grad) call.cross ? backward<T, In, T>(call, item, scratch) : backward<T, In, In>(call, item, scratch);
        else call.cross ? forward<T, In, T>(call, item, scratch) : forward<T, In, In>(call, item, scratch);
    });
}

}  // namespace
}  // namespace segc

extern "C" {

// Whether float16 tensors are taken: dtype 2. The others are 0 float32, 1 float64, 3 bfloat16.
__attribute__((visibility("default"))) int segc_scan_has_float16() { return SEGC_FLOAT16; }

// The forward scan, or the gradients where `grad` is given. A, D, bias, and of_A, of_D, of_bias (a sum for each batch), of_B, of_C (one for
// each block) are in the accumulation type, and so are y and of_u of a map; the others are in the input's.
__attribute__((visibility("default"))) void segc_scan(const segc::Call* call) {
    switch (call->dtype) {
        case 0: return segc::run<float, float>(*call);
        case 1: return segc::run<double, double>(*call);
#if SEGC_FLOAT16
        case 2: return segc::run<float, segc::Float16>(*call);
#endif
        case 3: return segc::run<float, segc::BFloat16>(*call);
    }
}
}
