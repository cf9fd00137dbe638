// A TensorRT and a CUDA runtime in host memory, for runtime/cpp/segment.cpp: an "engine" is the file "fake engine HEIGHT WIDTH", and gives 1
// where the red sample is above 127. stubs.h, made from TensorRT's own headers, ends the program at every method that is not here.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "stubs.h"

using namespace nvinfer1;

namespace {

struct Context : IExecutionContext {
    struct Impl : StubExecutionContext {
        int height, width;
        std::map<std::string, uint8_t*> address;
        bool setInputShape(char const* name, Dims const& shape) noexcept override {
            return std::string(name) == "images" && shape.nbDims == 4 && shape.d[0] == 1 && shape.d[1] == height && shape.d[2] == width;
        }
        bool setTensorAddress(char const* name, void* data) noexcept override {
            address[name] = static_cast<uint8_t*>(data);
            return true;
        }
        bool enqueueV3(cudaStream_t) noexcept override {
            for (int i = 0; i < height * width; ++i) address["class_map"][i] = address["images"][3 * i] > 127;
            return true;
        }
    } impl;
    Context(int height, int width) {
        impl.height = height;
        impl.width = width;
        mImpl = &impl;
    }
};

struct Engine : ICudaEngine {
    struct Impl : StubCudaEngine {
        int height, width;
        int32_t getNbIOTensors() const noexcept override { return 2; }
        char const* getIOTensorName(int32_t index) const noexcept override { return index ? "images" : "class_map"; }
        TensorIOMode getTensorIOMode(char const* name) const noexcept override {
            return std::string(name) == "images" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
        }
        DataType getTensorDataType(char const*) const noexcept override { return DataType::kUINT8; }
        Dims getTensorShape(char const*) const noexcept override { return Dims4{1, height, width, 3}; }
        IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override { return new Context(height, width); }
    } impl;
    Engine(int height, int width) {
        impl.height = height;
        impl.width = width;
        mImpl = &impl;
    }
};

struct Runtime : IRuntime {
    struct Impl : StubRuntime {
        ILogger* logger;
        ICudaEngine* deserializeCudaEngine(void const* data, std::size_t size) noexcept override {
            int height, width;
            std::string const text(static_cast<char const*>(data), size);
            if (std::sscanf(text.c_str(), "fake engine %d %d", &height, &width) == 2) return new Engine(height, width);
            logger->log(ILogger::Severity::kERROR, "magicTag failed");
            return nullptr;
        }
    } impl;
    explicit Runtime(ILogger* logger) {
        impl.logger = logger;
        mImpl = &impl;
    }
};

}  // namespace

extern "C" {
void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept { return new Runtime(static_cast<ILogger*>(logger)); }

// The CUDA runtime; FAKE_NO_GPU makes it one without a driver.
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return std::getenv("FAKE_NO_GPU") ? cudaErrorInsufficientDriver : cudaSuccess;
}
char const* cudaGetErrorString(cudaError_t) { return "CUDA driver version is insufficient for CUDA runtime version"; }
cudaError_t cudaMalloc(void** address, size_t size) { return (*address = std::malloc(size)) ? cudaSuccess : cudaErrorMemoryAllocation; }
cudaError_t cudaFree(void* address) { return std::free(address), cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, void const* from, size_t size, cudaMemcpyKind, cudaStream_t) { return std::memcpy(to, from, size), cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
}
