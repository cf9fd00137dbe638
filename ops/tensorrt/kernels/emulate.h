// Runs a kernel on the host: blocks one after the other, the threads of a block as fibers that take turns at every barrier and shuffle.
// Shared memory starts as NaN, so that a value read before it was written is seen; a barrier that not all threads reach ends the process.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include <ucontext.h>

namespace segc {
namespace emulated {

constexpr int kLanes = 32, kMaxThreads = 1024, kSlotBytes = 32;
constexpr size_t kStackBytes = 128 << 10;

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    bool started, done;
};

struct Barrier {
    int expected, arrived;
    unsigned generation;
};

struct Warp {
    Barrier barrier;
    unsigned char slots[2][kLanes][kSlotBytes];  // what each lane shows the others; two, so that one barrier an exchange is enough
};

struct Block {
    std::vector<unsigned char> stacks, shared;
    std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
    std::vector<Warp> warps = std::vector<Warp>(kMaxThreads / kLanes);
    std::function<void()> body;
    Barrier barrier{};
    jmp_buf scheduler;
    int threads = 0, thread = 0, y = 0, z = 0;
    int64_t x = 0;
    bool progress = false, backwards = false;  // backwards: the last thread runs first, which shows races that the other order hides
};

inline Block& block() {
    static Block instance;
    return instance;
}

inline void yield() {
    Block& all = block();
    if (_setjmp(all.fibers[all.thread].place) == 0) _longjmp(all.scheduler, 1);
}

inline void enter_fiber() {
    block().body();
    Block& all = block();
    all.fibers[all.thread].done = true;
    all.progress = true;
    _longjmp(all.scheduler, 1);
}

inline void wait(Barrier& barrier) {
    unsigned const mine = barrier.generation;
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        block().progress = true;
    }
    while (barrier.generation == mine) yield();
}

// Show ``value`` to the warp and see what its lanes show: slot i is lane i's.
template <typename Value>
unsigned char const (&exchange(Value const& value))[kLanes][kSlotBytes] {
    static_assert(sizeof(Value) <= kSlotBytes, "a slot is too small");
    Block& all = block();
    Warp& warp = all.warps[all.thread / kLanes];
    auto& slots = warp.slots[warp.barrier.generation % 2];
    std::memcpy(slots[all.thread % kLanes], &value, sizeof(Value));
    wait(warp.barrier);
    return slots;
}

inline void resume(int thread) {
    Block& all = block();
    Fiber& fiber = all.fibers[thread];
    all.thread = thread;
    if (_setjmp(all.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void prepare(int threads, size_t shared) {
    Block& all = block();
    all.threads = threads;
    all.barrier = {threads, 0, 0};
    all.stacks.resize(static_cast<size_t>(threads) * kStackBytes);
    all.shared.assign(shared, 0xff);
    for (int thread = 0; thread < threads; ++thread) {
        Fiber& fiber = all.fibers[thread];
        fiber.started = fiber.done = false;
        all.warps[thread / kLanes].barrier = {kLanes, 0, 0};
        getcontext(&fiber.start);
        fiber.start.uc_stack = {all.stacks.data() + static_cast<size_t>(thread) * kStackBytes, 0, kStackBytes};
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter_fiber, 0);
    }
}

inline void run_block() {
    Block& all = block();
    for (int left = all.threads; left > 0;) {
        all.progress = false;
        for (int i = 0; i < all.threads; ++i) {
            int const thread = all.backwards ? all.threads - 1 - i : i;
            if (all.fibers[thread].done) continue;
            resume(thread);
            if (all.fibers[thread].done) --left;
        }
        if (!all.progress) {
            std::fprintf(stderr, "emulated kernel: a barrier was not reached by all threads\n");
            std::abort();
        }
    }
}

}  // namespace emulated

inline int thread_index() { return emulated::block().thread; }
inline int block_threads() { return emulated::block().threads; }
inline int64_t block_x() { return emulated::block().x; }
inline int block_y() { return emulated::block().y; }
inline int block_z() { return emulated::block().z; }
inline void sync_block() { emulated::wait(emulated::block().barrier); }
inline unsigned char* shared_memory() { return emulated::block().shared.data(); }
inline float exp2_of(float value) { return std::exp2(value); }

inline float shuffle(float value, int lane) {
    float found;
    std::memcpy(&found, emulated::exchange(value)[lane & 31], sizeof found);
    return found;
}

inline float shuffle_xor(float value, int mask) { return shuffle(value, (thread_index() % emulated::kLanes) ^ mask); }

template <typename Args>
int launch(void (*kernel)(Args), int64_t x, int y, int z, int threads, size_t shared, Stream, Args const& args) {
    emulated::Block& all = emulated::block();
    all.body = [&] { kernel(args); };
    for (all.z = 0; all.z < z; ++all.z)
        for (all.y = 0; all.y < y; ++all.y)
            for (all.x = 0; all.x < x; ++all.x) {
                emulated::prepare(threads, shared);
                emulated::run_block();
            }
    return 0;
}

}  // namespace segc
