#include "plugin.h"

#include <algorithm>
#include <cstring>

#include "report.h"

namespace segc {

using namespace nvinfer1;

namespace {

constexpr int32_t kFailed = 1;

Tensors described(PluginTensorDesc const* tensors, int32_t count) {
    Tensors result;
    for (int32_t i = 0; i < count; ++i) result.push_back({tensors[i].dims, tensors[i].type});
    return result;
}

Tensors described(DynamicPluginTensorDesc const* tensors, int32_t count) {
    Tensors result;
    for (int32_t i = 0; i < count; ++i) result.push_back({tensors[i].desc.dims, tensors[i].desc.type});
    return result;
}

// The largest shapes of a profile.
Tensors largest(DynamicPluginTensorDesc const* tensors, int32_t count) {
    Tensors result = described(tensors, count);
    for (int32_t i = 0; i < count; ++i)
        for (int32_t axis = 0; axis < std::min(result[i].dims.nbDims, tensors[i].max.nbDims); ++axis)
            result[i].dims.d[axis] = std::max(result[i].dims.d[axis], tensors[i].max.d[axis]);
    return result;
}

}  // namespace

Plugin::Plugin(std::unique_ptr<Operator> operation) : operation_(std::move(operation)) {
    timing_id_ = std::string(kNamespace) + "." + operation_->name() + "." + kVersion;
    for (Attribute const& attribute : operation_->attributes()) {
        fields_.emplace_back(attribute.name, attribute.data, attribute.type, attribute.length);
        for (int32_t i = 0; i < attribute.length; ++i) {
            int32_t bits;  // both kinds have four bytes; as bits, so that no digit of a float is lost
            std::memcpy(&bits, static_cast<char const*>(attribute.data) + 4 * i, 4);
            timing_id_ += "." + std::to_string(bits);
        }
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* Plugin::clone() noexcept {
    return guarded<IPluginV3*>("clone", nullptr, [&] {
        auto copy = std::make_unique<Plugin>(operation_->copy());
        copy->shapes_ = shapes_;
        return copy.release();
    });
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

AsciiChar const* Plugin::getPluginName() const noexcept { return operation_->name(); }
AsciiChar const* Plugin::getPluginVersion() const noexcept { return kVersion; }
AsciiChar const* Plugin::getPluginNamespace() const noexcept { return kNamespace; }
int32_t Plugin::getNbOutputs() const noexcept { return 1; }
char const* Plugin::getTimingCacheID() noexcept { return timing_id_.c_str(); }
PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept { return &collection_; }

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, DataType const* inputs, int32_t input_count) const noexcept {
    return guarded("getOutputDataTypes", kFailed, [&] {
        if (output_count != 1 || input_count < 1) {
            report(std::string(operation_->name()) + " has one output and at least one input.");
            return kFailed;
        }
        outputs[0] = inputs[0];
        return 0;
    });
}

// Every operator of this library gives a tensor of its first input's shape.
int32_t Plugin::getOutputShapes(DimsExprs const* inputs, int32_t input_count, DimsExprs const*, int32_t, DimsExprs* outputs,
    int32_t output_count, IExprBuilder&) noexcept {
    return guarded("getOutputShapes", kFailed, [&] {
        if (output_count != 1 || input_count < 1) {
            report(std::string(operation_->name()) + " has one output and at least one input.");
            return kFailed;
        }
        outputs[0] = inputs[0];
        return 0;
    });
}

bool Plugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t input_count, int32_t output_count) noexcept {
    return guarded("supportsFormatCombination", false, [&] {
        PluginTensorDesc const& tensor = tensors[position].desc;
        if (output_count != 1 || position > input_count || tensor.format != TensorFormat::kLINEAR) return false;
        DataType const first = tensors[0].desc.type;
        return position == input_count ? tensor.type == first : operation_->takes_type(position, tensor.type, first);
    });
}

int32_t Plugin::accept(Tensors const& inputs) const {
    std::string wrong = operation_->check(inputs);
    for (size_t i = 0; wrong.empty() && i < inputs.size(); ++i)
        if (!operation_->takes_type(static_cast<int>(i), inputs[i].type, inputs[0].type))
            wrong = "input " + std::to_string(i) + " has data type number " + std::to_string(static_cast<int>(inputs[i].type)) +
                    "; expected float32, float16 or bfloat16 as the first input, and float32 for A, D and delta_bias.";
    if (wrong.empty()) return 0;
    report(std::string(operation_->name()) + ": " + wrong);
    return kFailed;
}

int32_t Plugin::configurePlugin(
    DynamicPluginTensorDesc const* inputs, int32_t input_count, DynamicPluginTensorDesc const*, int32_t) noexcept {
    return guarded("configurePlugin", kFailed, [&] { return accept(described(inputs, input_count)); });
}

size_t Plugin::getWorkspaceSize(
    DynamicPluginTensorDesc const* inputs, int32_t input_count, DynamicPluginTensorDesc const*, int32_t) const noexcept {
    return guarded<size_t>("getWorkspaceSize", 0, [&] { return operation_->workspace(largest(inputs, input_count)); });
}

int32_t Plugin::onShapeChange(PluginTensorDesc const* inputs, int32_t input_count, PluginTensorDesc const*, int32_t) noexcept {
    return guarded("onShapeChange", kFailed, [&] {
        shapes_ = described(inputs, input_count);
        return accept(shapes_);
    });
}

int32_t Plugin::enqueue(PluginTensorDesc const* inputs, PluginTensorDesc const*, void const* const* input_data, void* const* output_data,
    void* workspace, cudaStream_t stream) noexcept {
    return guarded("enqueue", kFailed, [&] {
        if (shapes_.empty()) {
            report(std::string(operation_->name()) + ": enqueue came before onShapeChange.");
            return kFailed;
        }
        Tensors const shapes = described(inputs, static_cast<int32_t>(shapes_.size()));
        int const error = operation_->launch(shapes, input_data, output_data[0], workspace, stream);
        if (error)
            report(std::string(operation_->name()) +
                   ": the kernel was not started: " + cudaGetErrorString(static_cast<cudaError_t>(error)));
        return static_cast<int32_t>(error);
    });
}

Creator::Creator(std::unique_ptr<Operator> prototype) : prototype_(std::move(prototype)) {
    for (Attribute const& attribute : prototype_->attributes())
        fields_.emplace_back(attribute.name, nullptr, attribute.type, attribute.length);
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

IPluginV3* Creator::createPlugin(AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept {
    return guarded<IPluginV3*>("createPlugin", nullptr, [&]() -> IPluginV3* {
        std::unique_ptr<Operator> operation = prototype_->copy();
        std::string wrong = read_fields(operation->attributes(), fields);
        if (wrong.empty()) wrong = operation->check_attributes();
        if (wrong.empty()) return new Plugin(std::move(operation));
        report(std::string(operation->name()) + ": " + wrong);
        return nullptr;
    });
}

PluginFieldCollection const* Creator::getFieldNames() noexcept { return &collection_; }
AsciiChar const* Creator::getPluginName() const noexcept { return prototype_->name(); }
AsciiChar const* Creator::getPluginVersion() const noexcept { return kVersion; }
AsciiChar const* Creator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace segc
