#include "operators.h"

#include <algorithm>

namespace segc {

using nvinfer1::DataType;
using nvinfer1::Dims;

namespace {

constexpr int64_t kMaxStates = 512;      // two carries of each have to fit in shared memory
constexpr int64_t kMaxLength = 1 << 26;  // so that offsets within a map and the number of tiles fit in a launch
enum Input { kU, kDelta, kA, kB, kC, kD, kBias, kInputs };

std::string first_of(std::initializer_list<std::string> sentences) {
    for (std::string const& sentence : sentences)
        if (!sentence.empty()) return sentence;
    return "";
}

int multiprocessors() {
    int device = 0, count = 0;
    bool const known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
    return known ? count : 1;
}

}  // namespace

std::vector<Attribute> Scan::attributes() {
    std::vector<Attribute> all{{"delta_softplus", nvinfer1::PluginFieldType::kINT32, &softplus_, 1, false}};
    if (!cross_) all.push_back({"reverse", nvinfer1::PluginFieldType::kINT32, &reverse_, 1, false});
    return all;
}

std::string Scan::check_attributes() const {
    if ((softplus_ | 1) != 1) return "attribute delta_softplus is " + std::to_string(softplus_) + "; expected 0 or 1.";
    if ((reverse_ | 1) != 1) return "attribute reverse is " + std::to_string(reverse_) + "; expected 0 or 1.";
    return "";
}

std::string Scan::check_weights(Tensors const& inputs, int64_t channels, int64_t states) const {
    if (states > kMaxStates) return "A has d_state " + std::to_string(states) + "; expected at most " + std::to_string(kMaxStates) + ".";
    return first_of({check_shape("A", inputs[kA], {channels, -1}, "u"), check_shape("D", inputs[kD], {channels}, "u"),
        check_shape("delta_bias", inputs[kBias], {channels}, "u")});
}

std::string Scan::check(Tensors const& inputs) const {
    std::string wrong = check_count(name(), inputs.size(), kInputs, kInputs);
    if (!wrong.empty()) return wrong;
    Dims const &u = inputs[kU].dims, &weights = inputs[kA].dims, &maps = inputs[kB].dims;
    int32_t const rank = cross_ ? 4 : 3;
    if (u.nbDims != rank) return "u has shape " + dims_text(u) + "; expected " + std::to_string(rank) + " axes.";
    if (weights.nbDims != 2) return "A has shape " + dims_text(weights) + "; expected (channels, d_state).";
    if (maps.nbDims != rank + 1) return "B has shape " + dims_text(maps) + "; expected " + std::to_string(rank + 1) + " axes.";
    int64_t const directions = cross_ ? 4 : 1, channels = u.d[1] < 0 ? -1 : directions * u.d[1], groups = cross_ ? 4 : maps.d[1];
    std::vector<int64_t> delta{u.d[0], channels}, wanted{u.d[0], groups, weights.d[1]};
    for (int32_t i = 2; i < rank; ++i) {
        delta.push_back(u.d[i]);
        wanted.push_back(u.d[i]);
    }
    for (Tensor const& tensor : inputs)
        if (wrong.empty()) wrong = check_known_sizes("an input", tensor);
    wrong = first_of({wrong, check_shape("delta", inputs[kDelta], delta, "u"), check_shape("B", inputs[kB], wanted, "u and A"),
        check_shape("C", inputs[kC], wanted, "u and A"), check_weights(inputs, channels, weights.d[1])});
    int64_t length = 1;
    for (int32_t i = 2; i < rank; ++i) length *= std::max<int64_t>(u.d[i], 1);
    if (wrong.empty() && length > kMaxLength)
        wrong = "u has " + std::to_string(length) + " steps; expected at most " + std::to_string(kMaxLength) + ".";
    if (wrong.empty() && channels > 0 && groups > 0 && channels % groups)
        wrong = "B has " + std::to_string(groups) + " groups; expected a divisor of the " + std::to_string(channels) + " channels.";
    return wrong;
}

bool Scan::takes_type(int position, DataType type, DataType first) const {
    if (position == kA || position == kD || position == kBias) return type == DataType::kFLOAT;
    return position == kU ? is_float_type(type) : type == first;
}

ScanProblem Scan::problem(Tensors const& inputs) const {
    Dims const& u = inputs[kU].dims;
    ScanProblem problem;
    problem.type = storage_type(inputs[kU].type);
    problem.batch = static_cast<int>(u.d[0]);
    problem.channels = static_cast<int>(u.d[1]);
    problem.height = cross_ ? static_cast<int>(u.d[2]) : 1;
    problem.width = static_cast<int>(u.d[u.nbDims - 1]);
    problem.groups = static_cast<int>(inputs[kB].dims.d[1]);
    problem.states = static_cast<int>(inputs[kB].dims.d[2]);
    problem.cross = cross_;
    problem.softplus = softplus_ != 0;
    problem.reverse = reverse_ != 0;
    return problem;
}

size_t Scan::workspace(Tensors const& inputs) const { return scan_workspace(problem(inputs)); }

int Scan::launch(Tensors const& inputs, void const* const* data, void* output, void* workspace, cudaStream_t stream) const {
    ScanProblem full = problem(inputs);
    full.u = data[kU];
    full.delta = data[kDelta];
    full.A = static_cast<float const*>(data[kA]);
    full.B = data[kB];
    full.C = data[kC];
    full.D = static_cast<float const*>(data[kD]);
    full.bias = static_cast<float const*>(data[kBias]);
    full.y = output;
    return launch_scan(full, workspace, stream, multiprocessors());
}

}  // namespace segc
