// segment ENGINE IMAGE.ppm MAP.pgm: runs an engine of a bundle on one picture and writes its class map, a grey level a class.
//
// The engine takes uint8 (1, H, W, 3) RGB and gives uint8 (1, H, W): resize, normalisation and argmax are in it, so that this is all a
// program needs. The picture has the engine's size. Exit code 2 and one sentence for whatever does not fit.

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Image {
    int height = 0, width = 0;
    std::vector<uint8_t> pixels;
};

class Log : public nvinfer1::ILogger {
public:
    void log(Severity severity, char const* message) noexcept override {
        if (severity <= Severity::kERROR) std::fprintf(stderr, "TensorRT: %s\n", message);
    }
};

void check(cudaError_t error, std::string const& call) {
    if (error != cudaSuccess) throw std::runtime_error(call + " failed: " + cudaGetErrorString(error) + ".");
}

// GPU memory that is freed with its owner.
std::unique_ptr<void, cudaError_t (*)(void*)> allocate(size_t size) {
    void* address = nullptr;
    check(cudaMalloc(&address, size), "cudaMalloc");
    return {address, cudaFree};
}

std::vector<char> read_file(std::string const& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error(path + " cannot be read.");
    return {std::istreambuf_iterator<char>(stream), {}};
}

// The next number of a PNM header; comments run to the end of their line.
int header_number(std::istream& stream) {
    while ((stream >> std::ws).peek() == '#') stream.ignore(1 << 16, '\n');
    int value = 0;
    stream >> value;
    return value;
}

Image read_ppm(std::string const& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error(path + " cannot be read.");
    std::string magic;
    stream >> magic;
    Image image;
    image.width = header_number(stream);
    image.height = header_number(stream);
    int const most = header_number(stream);
    stream.get();
    if (!stream || magic != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width > 65536 || image.height > 65536)
        throw std::runtime_error(path + " is not a PPM picture (P6, 8 bits); convert it: ffmpeg -i picture.jpg picture.ppm");
    image.pixels.resize(size_t{3} * image.width * image.height);
    stream.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
    if (!stream) throw std::runtime_error(path + " is cut off.");
    return image;
}

void write_pgm(std::string const& path, Image const& map) {
    std::ofstream stream(path, std::ios::binary);
    stream << "P5\n" << map.width << " " << map.height << "\n255\n";
    stream.write(reinterpret_cast<char const*>(map.pixels.data()), static_cast<std::streamsize>(map.pixels.size()));
    if (!stream.flush()) throw std::runtime_error(path + " cannot be written.");
}

std::string text(nvinfer1::Dims const& shape) {
    std::string found;
    for (int i = 0; i < shape.nbDims; ++i) found += (i ? "x" : "") + std::to_string(shape.d[i]);
    return found;
}

// The engine's input and output by name, of the only kind this program knows.
struct Ports {
    char const* images = nullptr;
    char const* map = nullptr;
};

Ports find_ports(nvinfer1::ICudaEngine const& engine) {
    Ports ports;
    for (int i = 0; i < engine.getNbIOTensors(); ++i) {
        char const* name = engine.getIOTensorName(i);
        bool const input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
        if (engine.getTensorDataType(name) != nvinfer1::DataType::kUINT8)
            throw std::runtime_error(std::string(name) + " is not uint8: export with --output argmax and at most 256 classes.");
        (input ? ports.images : ports.map) = name;
    }
    if (engine.getNbIOTensors() != 2 || !ports.images || !ports.map) throw std::runtime_error("the engine has not one input and one output.");
    return ports;
}

Image segment(std::string const& path, Image const& image) {
    Log log;
    std::vector<char> const data = read_file(path);
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(log)};
    if (!runtime) throw std::runtime_error("TensorRT does not start; its reason is above.");
    std::unique_ptr<nvinfer1::ICudaEngine> engine{runtime->deserializeCudaEngine(data.data(), data.size())};
    if (!engine) throw std::runtime_error(path + " is no engine of this TensorRT and GPU; its reason is above.");
    Ports const ports = find_ports(*engine);
    std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
    if (!context) throw std::runtime_error("too little GPU memory for the engine.");
    if (!context->setInputShape(ports.images, nvinfer1::Dims4{1, image.height, image.width, 3}))
        throw std::runtime_error("the picture is " + std::to_string(image.height) + "x" + std::to_string(image.width) + ", the engine takes "
                                 + text(engine->getTensorShape(ports.images)) + " (batch, height, width, 3).");

    Image map{image.height, image.width, std::vector<uint8_t>(size_t{1} * image.height * image.width)};
    auto const source = allocate(image.pixels.size()), target = allocate(map.pixels.size());
    context->setTensorAddress(ports.images, source.get());
    context->setTensorAddress(ports.map, target.get());
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> const held{stream, cudaStreamDestroy};
    check(cudaMemcpyAsync(source.get(), image.pixels.data(), image.pixels.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    if (!context->enqueueV3(stream)) throw std::runtime_error("the engine does not run; TensorRT's reason is above.");
    check(cudaMemcpyAsync(map.pixels.data(), target.get(), map.pixels.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return map;
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) {
        std::fprintf(stderr, "usage: segment ENGINE IMAGE.ppm MAP.pgm\n");
        return 2;
    }
    try {
        Image const image = read_ppm(words[2]);
        int devices = 0;
        check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
        write_pgm(words[3], segment(words[1], image));
    } catch (std::exception const& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 2;
    }
    return 0;
}
