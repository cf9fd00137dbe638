// An operator without TensorRT's class hierarchy: attributes, what it accepts, workspace, launch. plugin.h wraps any of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "types.h"

namespace segc {

// An attribute of the ONNX node and where its value is kept.
struct Attribute {
    char const* name;
    nvinfer1::PluginFieldType type;  // kINT32 or kFLOAT32
    void* data;
    int32_t length;
    bool required;
};

struct Tensor {
    nvinfer1::Dims dims;  // a negative dimension is not known yet
    nvinfer1::DataType type;
};

using Tensors = std::vector<Tensor>;

class Operator {
public:
    virtual ~Operator() = default;
    virtual std::unique_ptr<Operator> copy() const = 0;
    virtual char const* name() const = 0;
    virtual std::vector<Attribute> attributes() = 0;

    // Sentences that say what is wrong; empty where nothing is.
    virtual std::string check_attributes() const = 0;
    virtual std::string check(Tensors const& inputs) const = 0;

    virtual bool takes_type(int position, nvinfer1::DataType type, nvinfer1::DataType first) const = 0;
    virtual size_t workspace(Tensors const& inputs) const = 0;
    virtual int launch(Tensors const& inputs, void const* const* data, void* output, void* workspace, cudaStream_t stream) const = 0;
};

bool is_float_type(nvinfer1::DataType type);
Type storage_type(nvinfer1::DataType type);
std::string dims_text(nvinfer1::Dims const& dims);

// "" or what is wrong with a tensor's shape; ``wanted`` with -1 for any size.
std::string check_shape(char const* name, Tensor const& tensor, std::vector<int64_t> const& wanted, char const* source);
std::string check_count(char const* name, size_t found, size_t least, size_t most);
std::string check_known_sizes(char const* name, Tensor const& tensor);

// Read a plugin's fields into the attributes; "" or what is wrong.
std::string read_fields(std::vector<Attribute> const& attributes, nvinfer1::PluginFieldCollection const* fields);

}  // namespace segc
