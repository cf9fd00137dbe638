// Stands in for TensorRT: loads a plugin library and calls what TensorRT would call, for ctypes. Needs its headers, not its libraries.
#include <string>
#include <vector>

#include <dlfcn.h>

#include <NvInferRuntime.h>

using namespace nvinfer1;

namespace {

struct Logger final : ILogger {
    std::string text;
    void log(Severity severity, AsciiChar const* message) noexcept override {
        text += std::to_string(static_cast<int>(severity)) + " " + message + "\n";
    }
};

struct Finder final : ILoggerFinder {
    Logger logger;
    ILogger* findLogger() override { return &logger; }
};

struct Expression final : IDimensionExpr {};  // known by its address
struct Builder final : IExprBuilder {};

Finder finder;
IPluginCreatorInterface* const* creators = nullptr;

}  // namespace

extern "C" {

struct HostTensor {
    int32_t type, format, rank;
    int64_t dims[8], max[8];
};

}

namespace {

Dims dims_of(int32_t rank, int64_t const* sizes) {
    Dims dims{rank, {}};
    for (int32_t i = 0; i < rank; ++i) dims.d[i] = sizes[i];
    return dims;
}

std::vector<PluginTensorDesc> described(HostTensor const* tensors, int32_t count) {
    std::vector<PluginTensorDesc> result;
    for (int32_t i = 0; i < count; ++i)
        result.push_back({dims_of(tensors[i].rank, tensors[i].dims), static_cast<DataType>(tensors[i].type),
            static_cast<TensorFormat>(tensors[i].format), 1.0f});
    return result;
}

std::vector<DynamicPluginTensorDesc> described_dynamic(HostTensor const* tensors, int32_t count) {
    std::vector<DynamicPluginTensorDesc> result;
    std::vector<PluginTensorDesc> const now = described(tensors, count);
    for (int32_t i = 0; i < count; ++i) {
        Dims const most = dims_of(tensors[i].rank, tensors[i].max);
        result.push_back({now[i], now[i].dims, most, most});
    }
    return result;
}

template <typename Capability>
Capability* capability(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

IPluginV3OneBuild* build_of(IPluginV3* plugin) { return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }
IPluginV3OneCore* core_of(IPluginV3* plugin) { return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE); }
IPluginV3OneRuntime* runtime_of(IPluginV3* plugin) { return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME); }
IPluginCreatorV3One* creator_of(int32_t index) { return static_cast<IPluginCreatorV3One*>(creators[index]); }

std::string fields_text(PluginFieldCollection const* fields) {
    std::string text;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
        PluginField const& field = fields->fields[i];
        text += std::string(i ? "," : "") + field.name + ":" + std::to_string(static_cast<int>(field.type)) + "x" +
                std::to_string(field.length);
    }
    return text;
}

}  // namespace

extern "C" {

// Number of creators, or -1 with the reason in the log.
int32_t host_open(char const* path) {
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        finder.logger.text += dlerror();
        return -1;
    }
    reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"))(&finder);
    int32_t count = 0;
    creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"))(count);
    return count;
}

// What was logged since the last call.
char const* host_log() {
    static std::string last;
    last = std::move(finder.logger.text);
    finder.logger.text.clear();
    return last.c_str();
}

char const* host_creator(int32_t index) {
    static std::string text;
    IPluginCreatorV3One* const creator = creator_of(index);
    text = std::string(creator->getInterfaceInfo().kind) + "|" + creator->getPluginName() + "|" + creator->getPluginVersion() + "|" +
           creator->getPluginNamespace() + "|" + fields_text(creator->getFieldNames());
    return text.c_str();
}

IPluginV3* host_create(int32_t index, PluginField const* fields, int32_t count, int32_t phase) {
    PluginFieldCollection const collection{count, fields};
    return creator_of(index)->createPlugin("node", &collection, static_cast<TensorRTPhase>(phase));
}

IPluginV3* host_clone(IPluginV3* plugin) { return plugin->clone(); }
IPluginV3* host_attach(IPluginV3* plugin) { return runtime_of(plugin)->attachToContext(nullptr); }
PluginFieldCollection const* host_fields(IPluginV3* plugin) { return runtime_of(plugin)->getFieldsToSerialize(); }
void host_destroy(IPluginV3* plugin) { delete plugin; }

char const* host_describe(IPluginV3* plugin) {
    static std::string text;
    IPluginV3OneCore* const core = core_of(plugin);
    IPluginV3OneBuild* const build = build_of(plugin);
    text = std::string(core->getInterfaceInfo().kind) + "|" + build->getInterfaceInfo().kind + "|" +
           runtime_of(plugin)->getInterfaceInfo().kind + "|" + core->getPluginName() + "|" + core->getPluginVersion() + "|" +
           core->getPluginNamespace() + "|" + std::to_string(build->getNbOutputs()) + "|" + build->getTimingCacheID();
    return text.c_str();
}

// The input whose shape the output has, found by its expressions' addresses; -1 where it has none's, -2 where it was refused.
int32_t host_output_shape(IPluginV3* plugin, HostTensor const* inputs, int32_t count) {
    std::vector<Expression> expressions(8 * count);
    std::vector<DimsExprs> shapes(count);
    for (int32_t i = 0; i < count; ++i) {
        shapes[i].nbDims = inputs[i].rank;
        for (int32_t axis = 0; axis < inputs[i].rank; ++axis) shapes[i].d[axis] = &expressions[8 * i + axis];
    }
    Builder builder;
    DimsExprs output{};
    if (build_of(plugin)->getOutputShapes(shapes.data(), count, nullptr, 0, &output, 1, builder)) return -2;
    for (int32_t i = 0; i < count; ++i) {
        bool same = output.nbDims == shapes[i].nbDims;
        for (int32_t axis = 0; same && axis < output.nbDims; ++axis) same = output.d[axis] == shapes[i].d[axis];
        if (same) return i;
    }
    return -1;
}

int32_t host_output_type(IPluginV3* plugin, HostTensor const* inputs, int32_t count) {
    std::vector<DataType> types;
    for (int32_t i = 0; i < count; ++i) types.push_back(static_cast<DataType>(inputs[i].type));
    DataType output{};
    return build_of(plugin)->getOutputDataTypes(&output, 1, types.data(), count) ? -1 : static_cast<int32_t>(output);
}

int32_t host_supports(IPluginV3* plugin, int32_t position, HostTensor const* tensors, int32_t inputs) {
    return build_of(plugin)->supportsFormatCombination(position, described_dynamic(tensors, inputs + 1).data(), inputs, 1);
}

int32_t host_configure(IPluginV3* plugin, HostTensor const* tensors, int32_t inputs) {
    auto const all = described_dynamic(tensors, inputs + 1);
    return build_of(plugin)->configurePlugin(all.data(), inputs, all.data() + inputs, 1);
}

size_t host_workspace(IPluginV3* plugin, HostTensor const* tensors, int32_t inputs) {
    auto const all = described_dynamic(tensors, inputs + 1);
    return build_of(plugin)->getWorkspaceSize(all.data(), inputs, all.data() + inputs, 1);
}

int32_t host_shape_change(IPluginV3* plugin, HostTensor const* tensors, int32_t inputs) {
    auto const all = described(tensors, inputs + 1);
    return runtime_of(plugin)->onShapeChange(all.data(), inputs, all.data() + inputs, 1);
}

int32_t host_enqueue(IPluginV3* plugin, HostTensor const* tensors, int32_t inputs, void const* const* data, void* output, void* workspace,
    void* stream) {
    auto const all = described(tensors, inputs + 1);
    return runtime_of(plugin)->enqueue(all.data(), all.data() + inputs, data, &output, workspace, static_cast<cudaStream_t>(stream));
}
}
