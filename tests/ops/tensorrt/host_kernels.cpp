// The CUDA kernels compiled for the host (kernels/emulate.h), for ctypes: the same launchers with a workspace of exactly the stated size.
#include <algorithm>
#include <vector>

#include "attention.h"
#include "numbers.h"
#include "scan.h"

namespace {

constexpr unsigned char kGuard = 0x5a;

}  // namespace

extern "C" {

// Which thread of a block runs first: no result may depend on it.
void host_order(int backwards) { segc::emulated::block().backwards = backwards != 0; }

size_t host_scan_workspace(segc::ScanProblem const* problem) { return segc::scan_workspace(*problem); }

// Returns -1 where the kernels wrote beyond their workspace.
int host_scan(segc::ScanProblem const* problem, int multiprocessors) {
    size_t const bytes = segc::scan_workspace(*problem);
    std::vector<unsigned char> workspace(bytes + 256, 0xff);  // NaN: what is read has to be written first
    std::fill(workspace.begin() + bytes, workspace.end(), kGuard);
    int const error = segc::launch_scan(*problem, workspace.data(), nullptr, multiprocessors);
    for (size_t i = bytes; i < workspace.size(); ++i)
        if (workspace[i] != kGuard) return -1;
    return error;
}

int host_attention(segc::AttentionProblem const* problem, int tensor_cores) {
    return segc::launch_attention(*problem, nullptr, tensor_cores != 0);
}

void host_round(float const* from, int type, uint16_t* to, size_t count) {
    for (size_t i = 0; i < count; ++i)
        to[i] = type == 1 ? segc::as<segc::Half>(from[i]).bits : segc::as<segc::BFloat16>(from[i]).bits;
}

void host_widen(uint16_t const* from, int type, float* to, size_t count) {
    for (size_t i = 0; i < count; ++i)
        to[i] = type == 1 ? segc::to_float(segc::Half{from[i]}) : segc::to_float(segc::BFloat16{from[i]});
}
}
