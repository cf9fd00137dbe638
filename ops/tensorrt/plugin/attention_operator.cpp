#include "operators.h"

#include <cmath>

namespace segc {

using nvinfer1::DataType;
using nvinfer1::Dims;

namespace {

enum Input { kQ, kK, kV, kBias, kInputs };
char const* const kAxes[2] = {"rows", "columns"};

}  // namespace

std::vector<Attribute> Attention::attributes() {
    return {{"kernel_size", nvinfer1::PluginFieldType::kINT32, kernel_, 2, true},
        {"dilation", nvinfer1::PluginFieldType::kINT32, dilation_, 2, false},
        {"scale", nvinfer1::PluginFieldType::kFLOAT32, &scale_, 1, true}};
}

std::string Attention::check_attributes() const {
    for (int i = 0; i < 2; ++i) {
        if (kernel_[i] % 2 == 0 || kernel_[i] < kMinKernel || kernel_[i] > kMaxKernel)
            return std::string("attribute kernel_size over the ") + kAxes[i] + " is " + std::to_string(kernel_[i]) +
                   "; expected an odd number from 3 to 63.";
        if (dilation_[i] < 1)
            return std::string("attribute dilation over the ") + kAxes[i] + " is " + std::to_string(dilation_[i]) +
                   "; expected at least 1.";
    }
    return std::isfinite(scale_) ? "" : "attribute scale is " + std::to_string(scale_) + "; expected a finite number.";
}

std::string Attention::check_axis(char const* axis, int64_t size, int index) const {
    int64_t const span = static_cast<int64_t>(kernel_[index]) * dilation_[index];
    if (size < 0 || span <= size) return "";
    return "kernel_size x dilation over the " + std::string(axis) + " is " + std::to_string(span) + ", but q has " + std::to_string(size) +
           "; expected no more than the map.";
}

std::string Attention::check(Tensors const& inputs) const {
    std::string wrong = check_count(name(), inputs.size(), kInputs - 1, kInputs);
    if (!wrong.empty()) return wrong;
    Dims const& q = inputs[kQ].dims;
    if (q.nbDims != 5) return "q has shape " + dims_text(q) + "; expected (batch, height, width, heads, head_dim).";
    std::vector<int64_t> const same(q.d, q.d + 5);
    for (Tensor const& tensor : inputs)
        if (wrong.empty()) wrong = check_known_sizes("an input", tensor);
    if (wrong.empty()) wrong = check_shape("k", inputs[kK], same, "q");
    if (wrong.empty()) wrong = check_shape("v", inputs[kV], same, "q");
    for (int i = 0; i < 2; ++i)
        if (wrong.empty()) wrong = check_axis(kAxes[i], q.d[1 + i], i);
    if (wrong.empty() && q.d[4] > kMaxHeadDim)
        wrong = "q has head_dim " + std::to_string(q.d[4]) + "; expected at most " + std::to_string(kMaxHeadDim) + ".";
    if (wrong.empty() && inputs.size() == kInputs)
        wrong = check_shape("rpb", inputs[kBias], {q.d[3], 2 * kernel_[0] - 1, 2 * kernel_[1] - 1}, "q's heads and 2 kernel_size - 1");
    return wrong;
}

bool Attention::takes_type(int position, DataType type, DataType first) const {
    if (position == kQ) return is_float_type(type);
    return type == first || (position == kBias && type == DataType::kFLOAT);
}

int Attention::launch(Tensors const& inputs, void const* const* data, void* output, void*, cudaStream_t stream) const {
    Dims const& q = inputs[kQ].dims;
    AttentionProblem problem;
    problem.type = storage_type(inputs[kQ].type);
    problem.batch = static_cast<int>(q.d[0]);
    problem.height = static_cast<int>(q.d[1]);
    problem.width = static_cast<int>(q.d[2]);
    problem.heads = static_cast<int>(q.d[3]);
    problem.head_dim = static_cast<int>(q.d[4]);
    for (int i = 0; i < 2; ++i) {
        problem.kernel[i] = kernel_[i];
        problem.dilation[i] = dilation_[i];
    }
    problem.scale = scale_;
    problem.q = data[kQ];
    problem.k = data[kK];
    problem.v = data[kV];
    problem.y = output;
    if (inputs.size() == kInputs) {
        problem.rpb = data[kBias];
        problem.bias_is_float = inputs[kBias].type == DataType::kFLOAT;
    }
    return launch_attention(problem, stream, true);
}

}  // namespace segc
