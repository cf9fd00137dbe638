"""Bias correction: rounding moves the mean of a layer's output; its bias takes that back.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2 and appendix D (the
empirical form). Every layer is compared with itself on the same activations of the fp32 network, so that one pass over the images is
enough and no layer takes back the error of another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from segc.calib.stream import stream
from segc.compress.placement import WEIGHTED
from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.export.onnx_graph import opset_of
from segc.export.surgery import add_constant
from segc.ops.onnx_functions.library import attributes

_FIRST_OPSET_WITH_AXES_INPUT = 18
REASON_NO_BIAS = "a product without an addition behind it has no bias"
REASON_SCALED = "its bias is multiplied by beta"

Errors = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Correction:
    """A corrected graph. shifts: node -> root mean square of what was taken from its bias; skipped: node -> why it has none."""

    model: ModelProto
    shifts: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def correct_biases(
    full: ModelProto, quantized: ModelProto, images: Sequence[Path], contract: Contract, threads: int | None = None
) -> Correction:
    """A copy of a Q/DQ graph whose biases take back the mean error of each output channel.

    Args:
        full: the fp32 graph that ``quantized`` was made from; nodes have the same names.
        images: those of the calibration.

    Raises:
        UserError: no images.
    """
    if not images:
        raise UserError("bias correction needs images.", "Calibrate on real images: segc calibrate BUNDLE")
    copy = ModelProto()
    copy.CopyFrom(quantized)
    biases = _Biases(copy)
    found = Correction(copy)
    for name, error in output_errors(full, quantized, images, contract, threads).items():
        reason = biases.subtract(name, error)
        if reason:
            found.skipped[name] = reason
        else:
            found.shifts[name] = float(np.sqrt((error**2).mean()))
    onnx.checker.check_model(copy)
    return found


def output_errors(
    full: ModelProto, quantized: ModelProto, images: Sequence[Path], contract: Contract, threads: int | None = None
) -> Errors:
    """Node -> mean over batches and positions of (quantized - fp32) for each output channel, both on the fp32 network's activations."""
    both, outputs = _side_by_side(full, quantized)
    total: Errors = {}
    count = 0
    for _, values in stream(both, list(outputs.values()), images, contract, "measuring mean errors", threads):
        count += 1
        for name, value in zip(outputs, values, strict=True):
            total[name] = total.get(name, 0.0) + value.astype(np.float64)
    return {name: found / count for name, found in total.items()}


def _side_by_side(full: ModelProto, quantized: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """The fp32 graph with the int8 form of each weighted node beside it; node -> tensor of the mean difference of their outputs."""
    both = onnx.shape_inference.infer_shapes(full)
    there = {item.name for item in both.graph.initializer}
    both.graph.initializer.extend(item for item in quantized.graph.initializer if item.name not in there)
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in both.graph.value_info}
    plain = {node.name: node for node in full.graph.node}
    makers = {name: node for node in quantized.graph.node for name in node.output}
    outputs = {}
    for node in _quantized_nodes(quantized, makers):
        original = plain[node.name].output[0]
        axes = [axis for axis in range(ranks[original]) if axis != (1 if node.op_type.startswith("Conv") else ranks[original] - 1)]
        both.graph.node.extend(_beside(node, makers))
        both.graph.node.append(helper.make_node("Sub", [f"{node.name}_int8", original], [f"{node.name}_off"]))
        both.graph.node.append(_mean(both, f"{node.name}_off", axes))
        outputs[node.name] = both.graph.node[-1].output[0]
    return both, outputs


def _quantized_nodes(model: ModelProto, makers: Mapping[str, NodeProto]) -> list[NodeProto]:
    """Weighted nodes that read an int8 activation and int8 weights."""
    constants = {item.name for item in model.graph.initializer}

    def kinds(node: NodeProto) -> list[bool | None]:
        pairs = [makers.get(name) for name in node.input[:2]]
        return [pair.input[0] in constants if pair is not None and pair.op_type == "DequantizeLinear" else None for pair in pairs]

    return [node for node in model.graph.node if node.op_type in WEIGHTED and kinds(node) == [False, True]]


def _beside(node: NodeProto, makers: Mapping[str, NodeProto]) -> Iterator[NodeProto]:
    """A node with its pairs, reading the tensors of the fp32 graph, under names of its own."""
    read = makers[node.input[0]]
    for index, source in enumerate((makers[read.input[0]], read, makers[node.input[1]])):
        copy = NodeProto()
        copy.CopyFrom(source)
        copy.name = copy.output[0] = f"{node.name}_pair{index}"
        if index == 1:
            copy.input[0] = f"{node.name}_pair0"
        yield copy
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = copy.output[0] = f"{node.name}_int8"
    copy.input[0], copy.input[1] = f"{node.name}_pair1", f"{node.name}_pair2"
    yield copy


def _mean(model: ModelProto, tensor: str, axes: list[int]) -> NodeProto:
    if opset_of(model) < _FIRST_OPSET_WITH_AXES_INPUT:
        return helper.make_node("ReduceMean", [tensor], [f"{tensor}_mean"], axes=axes, keepdims=0)
    return helper.make_node("ReduceMean", [tensor, add_constant(model, f"{tensor}_axes", np.array(axes))], [f"{tensor}_mean"], keepdims=0)


class _Biases:
    """The biases of a Q/DQ graph: an input of the node, or what the only reader adds."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.constants = {item.name: item for item in model.graph.initializer}

    def subtract(self, name: str, error: NDArray[Any]) -> str:
        """Subtract a vector from the bias of a node; the reason where it has none, else empty."""
        node = self.nodes[name]
        if node.op_type == "Gemm" and attributes(node).get("beta", 1.0) != 1.0:
            return REASON_SCALED
        if node.op_type == "MatMul":
            return self._from_addition(node, error)
        there = node.input[2] if len(node.input) > 2 else ""
        before = numpy_helper.to_array(self.constants[there]) if there else np.zeros(1, np.float32)
        del node.input[2:]
        node.input.append(add_constant(self.model, f"{name}_corrected_bias", (before - error).astype(np.float32)))
        return ""

    def _from_addition(self, product: NodeProto, error: NDArray[Any]) -> str:
        readers = [node for node in self.model.graph.node if product.output[0] in node.input]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return REASON_NO_BIAS
        at = [index for index, name in enumerate(readers[0].input) if name != product.output[0]]
        constant = self.constants.get(readers[0].input[at[0]]) if at else None
        if constant is None or constant.data_type != onnx.TensorProto.FLOAT:
            return REASON_NO_BIAS
        shifted = (numpy_helper.to_array(constant) - error).astype(np.float32)
        readers[0].input[at[0]] = add_constant(self.model, f"{product.name}_corrected_bias", shifted)
        return ""
