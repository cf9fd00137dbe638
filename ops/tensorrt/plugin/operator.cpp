#include "operator.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace segc {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

bool is_float_type(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16; }

Type storage_type(DataType type) {
    return type == DataType::kHALF ? Type::kHalf : type == DataType::kBF16 ? Type::kBFloat16 : Type::kFloat;
}

std::string dims_text(nvinfer1::Dims const& dims) {
    std::string text = "(";
    for (int32_t i = 0; i < dims.nbDims; ++i) text += (i ? ", " : "") + std::to_string(dims.d[i]);
    return text + ")";
}

std::string check_count(char const* name, size_t found, size_t least, size_t most) {
    if (found >= least && found <= most) return "";
    std::string const wanted = least == most ? std::to_string(least) : std::to_string(least) + " or " + std::to_string(most);
    return std::string(name) + " has " + std::to_string(found) + " inputs; expected " + wanted + ".";
}

std::string check_shape(char const* name, Tensor const& tensor, std::vector<int64_t> const& wanted, char const* source) {
    bool fits = tensor.dims.nbDims == static_cast<int32_t>(wanted.size());
    for (size_t i = 0; fits && i < wanted.size(); ++i) fits = wanted[i] < 0 || tensor.dims.d[i] < 0 || tensor.dims.d[i] == wanted[i];
    if (fits) return "";
    nvinfer1::Dims expected{static_cast<int32_t>(wanted.size()), {}};
    std::copy(wanted.begin(), wanted.end(), expected.d);
    return std::string(name) + " has shape " + dims_text(tensor.dims) + "; expected " + dims_text(expected) + ", from " + source +
           " (-1: any size).";
}

std::string check_known_sizes(char const* name, Tensor const& tensor) {
    for (int32_t i = 0; i < tensor.dims.nbDims; ++i)
        if (tensor.dims.d[i] == 0 || tensor.dims.d[i] > std::numeric_limits<int32_t>::max())
            return std::string(name) + " has shape " + dims_text(tensor.dims) + "; expected every size from 1 to 2147483647.";
    return "";
}

namespace {

bool same_kind(PluginFieldType wanted, PluginFieldType found) {
    if (wanted == PluginFieldType::kFLOAT32) return found == PluginFieldType::kFLOAT32 || found == PluginFieldType::kFLOAT64;
    return found == PluginFieldType::kINT32 || found == PluginFieldType::kINT64;
}

void read_value(PluginField const& field, Attribute const& attribute, int32_t index) {
    if (field.type == PluginFieldType::kFLOAT64) {
        static_cast<float*>(attribute.data)[index] = static_cast<float>(static_cast<double const*>(field.data)[index]);
    } else if (field.type == PluginFieldType::kINT64) {
        int64_t const value = static_cast<int64_t const*>(field.data)[index];
        static_cast<int32_t*>(attribute.data)[index] = static_cast<int32_t>(std::clamp<int64_t>(value, INT32_MIN, INT32_MAX));
    } else {
        std::memcpy(static_cast<char*>(attribute.data) + 4 * index, static_cast<char const*>(field.data) + 4 * index, 4);
    }
}

std::string read_field(PluginField const& field, Attribute const& attribute) {
    std::string const kind = attribute.type == PluginFieldType::kFLOAT32 ? "float32" : "int32";
    if (!same_kind(attribute.type, field.type) || field.length != attribute.length || !field.data)
        return std::string("attribute ") + attribute.name + " has type number " + std::to_string(static_cast<int>(field.type)) + " and " +
               std::to_string(field.length) + " values; expected " + std::to_string(attribute.length) + " of " + kind + ".";
    for (int32_t i = 0; i < field.length; ++i) read_value(field, attribute, i);
    return "";
}

}  // namespace

std::string read_fields(std::vector<Attribute> const& attributes, nvinfer1::PluginFieldCollection const* fields) {
    std::vector<bool> seen(attributes.size());
    for (int32_t i = 0; fields && i < fields->nbFields; ++i) {
        PluginField const& field = fields->fields[i];
        std::string const name = field.name ? field.name : "";
        auto const found = std::find_if(attributes.begin(), attributes.end(), [&](Attribute const& item) { return name == item.name; });
        if (found == attributes.end()) return "attribute " + name + " is not known.";
        seen[found - attributes.begin()] = true;
        std::string const wrong = read_field(field, *found);
        if (!wrong.empty()) return wrong;
    }
    for (size_t i = 0; i < attributes.size(); ++i)
        if (attributes[i].required && !seen[i]) return std::string("attribute ") + attributes[i].name + " is missing.";
    return "";
}

}  // namespace segc
