"""Insert symmetric int8 Q/DQ pairs into a graph: per-tensor activations, per-channel weights, float biases."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from segc.compress.placement import CHAIN, WEIGHTED, Placement, activations_of
from segc.core.errors import UserError

_MOVING = ("Concat", "MaxPool", "Resize")
# A range that others would widen by more stays as it is: two of seven bits are the most to lose.
_MOST_WIDENED = 4.0
_SETTINGS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # TensorRT takes float biases only; ONNX Runtime quantizes them itself while loading.
    "QuantizeBias": False,
    # A float consumer (LayerNorm, Softmax, GELU) reads the product unrounded, and ONNX Runtime takes its slow int8 Softmax otherwise.
    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
    # A pair for each reader: TensorRT wants it, and ONNX Runtime fuses a convolution only when it does not share its pair.
    "DedicatedQDQPair": True,
    # ONNX Runtime cannot scale MatMul weights per channel on the default axis 0.
    "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
}


def insert_qdq(model: ModelProto, placement: Placement, ranges: Mapping[str, float]) -> ModelProto:
    """A copy of ``model`` whose placed nodes read and write int8 through Q/DQ pairs; metadata is kept.

    Args:
        model: the fp32 graph.
        placement: which nodes.
        ranges: tensor -> amax; a tensor that is always zero gets a range of 1.

    Raises:
        UserError: a tensor of a placed node has no range, or one that is not a number.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=_ranges(copy, placement, ranges),
        nodes_to_quantize=placement.quantized,
        nodes_to_exclude=[],
        op_types_to_quantize=list(WEIGHTED + CHAIN),
        extra_options={**_SETTINGS, "TensorQuantOverrides": _scaled_as_a_whole(copy)},
    )
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantizer.quantize_model()
    finally:
        logging.getLogger().setLevel(level)
    _separate_pairs(quantizer.model.model)
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    _drop_contrib_import(quantized)
    _restore_gemms(model, quantized)
    return quantized


def _separate_pairs(model: ModelProto) -> None:
    """Give every reader of a tensor a Q/DQ pair of its own, in place; the quantizer lets readers that stay in float share one."""
    quantizers = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    dequantizers = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantizers]
    pairs = {node.output[0]: (quantizers[node.input[0]], node) for node in dequantizers}
    read: set[str] = set()
    for reader in list(model.graph.node):
        for index, name in enumerate(reader.input):
            if name in read:
                reader.input[index] = _copied(model, *pairs[name], f"{name}_{reader.name}_{index}")
            elif name in pairs:
                read.add(name)


def _copied(model: ModelProto, quantize: NodeProto, dequantize: NodeProto, name: str) -> str:
    """A second pair on the same tensor; what it gives."""
    for node, suffix in ((quantize, "_quantized"), (dequantize, "")):
        copy = model.graph.node.add()
        copy.CopyFrom(node)
        copy.name = copy.output[0] = name + suffix
    copy.input[0] = f"{name}_quantized"
    return name


def _scaled_as_a_whole(model: ModelProto) -> dict[str, list[dict[str, bool]]]:
    """Constants of a MatMul that get one scale: on the left its last axis is summed over, and ONNX Runtime takes no more for a stack."""
    ranks = {item.name: len(item.dims) for item in model.graph.initializer}
    products = [node.input for node in model.graph.node if node.op_type == "MatMul"]
    names = {name for left, right in products for name in (left, right) if name in ranks and (name == left or ranks[name] > 2)}
    return {name: [{"symmetric": True}] for name in names}


def _ranges(model: ModelProto, placement: Placement, ranges: Mapping[str, float]) -> TensorsData:
    """The quantizer's ranges; tensors it does not touch are absent."""
    constants = {item.name for item in model.graph.initializer}
    wanted = set(placement.quantized)
    touched = {name for node in model.graph.node if node.name in wanted for name in (*activations_of(node), *node.output)} - constants
    integer = {item.name for item in model.graph.value_info if item.type.tensor_type.elem_type not in (0, 1)}
    missing = sorted(name for name in touched - integer if not np.isfinite(ranges.get(name, np.nan)))
    if missing:
        raise UserError(
            f"the calibration table has no range for {len(missing)} tensors ({', '.join(missing[:3])}).",
            "Calibrate again: segc calibrate BUNDLE --images DIR",
        )
    shared = share_ranges(model, placement, {name: ranges[name] for name in touched - integer})
    data = {name: _both_sides(amax or 1.0) for name, amax in shared.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def share_ranges(model: ModelProto, placement: Placement, ranges: Mapping[str, float]) -> dict[str, float]:
    """One range for all inputs and outputs of each node that only moves or mixes values: the largest of theirs.

    Not where that would widen one too much: a network's last Concat would then take the bits of its first layers. With equal scales the
    Q/DQ pairs around a Concat cancel. With different ones OpenVINO runs the convolution behind it in fp32 (half the time of DeepLabV3+
    R50). What a Relu alone reads takes the Relu's own range: the negative values that it loses need none.
    """
    found = dict(ranges)
    placed = set(placement.quantized)
    moving = [node for node in model.graph.node if node.op_type in _MOVING and node.name in placed]
    changed = True
    while changed:
        changed = False
        for node in moving:
            names = [name for name in (*node.input, *node.output) if name in found]
            widest = max(found[name] for name in names)
            if widest > _MOST_WIDENED * min((ranges[name] for name in names if ranges[name]), default=widest):
                continue
            changed |= any(found[name] != widest for name in names)
            found.update(dict.fromkeys(names, widest))
    return found | {source: found[output] for source, output in _rectified(model, placed) if source in found and output in found}


def _rectified(model: ModelProto, placed: set[str]) -> list[tuple[str, str]]:
    """(input, output) of each placed Relu that alone reads what a placed convolution, product or sum gives."""
    readers = [name for node in model.graph.node for name in node.input]
    made = {name for node in model.graph.node if node.op_type in (*WEIGHTED, "Add") and node.name in placed for name in node.output}
    relus = [node for node in model.graph.node if node.op_type == "Relu" and node.name in placed]
    return [(node.input[0], node.output[0]) for node in relus if node.input[0] in made and readers.count(node.input[0]) == 1]


def _both_sides(amax: float) -> TensorData:
    return TensorData(lowest=np.array(-amax, np.float32), highest=np.array(amax, np.float32))


def _restore_gemms(model: ModelProto, quantized: ModelProto) -> None:
    """The quantizer sets the factor of a Gemm's bias to 1, though the bias stays as it is."""
    attributes = {node.name: node.attribute for node in model.graph.node if node.op_type == "Gemm"}
    for node in quantized.graph.node:
        if node.op_type == "Gemm" and node.name in attributes:
            del node.attribute[:]
            node.attribute.extend(attributes[node.name])


def _drop_contrib_import(model: ModelProto) -> None:
    """The quantizer imports com.microsoft whether it is used or not; strict runtimes stumble over it."""
    used = {node.domain for node in model.graph.node}
    for item in [item for item in model.opset_import if item.domain not in used | {"", "ai.onnx"}]:
        model.opset_import.remove(item)
