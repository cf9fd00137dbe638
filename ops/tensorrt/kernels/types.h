// What the launchers' callers need: the storage types by number, and the stream. SEGC_EMULATED is defined by a build for the host.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef SEGC_EMULATED
namespace segc {
using Stream = void*;
}
#else
#include <cuda_runtime_api.h>
namespace segc {
using Stream = cudaStream_t;
}
#endif

namespace segc {

enum class Type : int32_t { kFloat = 0, kHalf = 1, kBFloat16 = 2 };

}  // namespace segc
