"""Weight scales of a Q/DQ graph that a narrower float can hold."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

from segc.ops.onnx_functions.library import attributes


def floor_weight_scales(model: ModelProto, least: float) -> ModelProto:
    """A copy of a Q/DQ graph whose int8 weights have no scale below ``least``: those channels are rounded to multiples of it.

    Channels that training switched off have scales of 1e-9 and less, which are 0 in fp16, and TensorRT takes no scale of 0.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    constants = {item.name: item for item in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and node.input[1] in constants:
            values, scales = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            raised = np.maximum(scales, np.float32(least))
            if (raised != scales).any():
                ratio = _along(scales / raised, attributes(node).get("axis", 1), values.ndim)
                constants[node.input[0]].CopyFrom(numpy_helper.from_array(np.rint(values * ratio).astype(values.dtype), node.input[0]))
                constants[node.input[1]].CopyFrom(numpy_helper.from_array(raised, node.input[1]))
    return copy


def _along(ratio: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Ratios shaped to multiply a tensor along one axis; one ratio as it is."""
    return ratio if ratio.ndim == 0 else ratio.reshape([-1 if index == axis % rank else 1 for index in range(rank)])
