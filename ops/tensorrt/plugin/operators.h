// The three operators of the library.
#pragma once

#include "attention.h"
#include "operator.h"
#include "scan.h"

namespace segc {

// SelectiveScan and CrossSelectiveScan: u, delta, A, B, C, D, delta_bias.
class Scan final : public Operator {
public:
    explicit Scan(bool cross) : cross_(cross) {}
    std::unique_ptr<Operator> copy() const override { return std::make_unique<Scan>(*this); }
    char const* name() const override { return cross_ ? "CrossSelectiveScan" : "SelectiveScan"; }
    std::vector<Attribute> attributes() override;
    std::string check_attributes() const override;
    std::string check(Tensors const& inputs) const override;
    bool takes_type(int position, nvinfer1::DataType type, nvinfer1::DataType first) const override;
    size_t workspace(Tensors const& inputs) const override;
    int launch(Tensors const& inputs, void const* const* data, void* output, void* workspace, cudaStream_t stream) const override;

private:
    ScanProblem problem(Tensors const& inputs) const;
    std::string check_weights(Tensors const& inputs, int64_t channels, int64_t states) const;

    bool cross_;
    int32_t softplus_ = 0, reverse_ = 0;
};

// NeighborhoodAttention2D: q, k, v and, where there is one, rpb.
class Attention final : public Operator {
public:
    std::unique_ptr<Operator> copy() const override { return std::make_unique<Attention>(*this); }
    char const* name() const override { return "NeighborhoodAttention2D"; }
    std::vector<Attribute> attributes() override;
    std::string check_attributes() const override;
    std::string check(Tensors const& inputs) const override;
    bool takes_type(int position, nvinfer1::DataType type, nvinfer1::DataType first) const override;
    size_t workspace(Tensors const&) const override { return 0; }
    int launch(Tensors const& inputs, void const* const* data, void* output, void* workspace, cudaStream_t stream) const override;

private:
    std::string check_axis(char const* axis, int64_t size, int index) const;

    int32_t kernel_[2] = {0, 0}, dilation_[2] = {1, 1};
    float scale_ = 0.0f;
};

}  // namespace segc
