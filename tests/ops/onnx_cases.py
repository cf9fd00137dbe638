"""Models of one ``segc`` node for the tests, and the runtimes that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import Tensor

from segc.ops.onnx_functions.library import add_functions, inlined
from segc.ops.onnx_functions.scan import Form
from segc.ops.onnx_functions.signature import DOMAIN, DOMAIN_VERSION, PLUGIN_ATTRIBUTES, SIGNATURES

Values = dict[str, NDArray[Any]]


def values_of(op_type: str, tensors: Sequence[Tensor | None]) -> Values:
    """The inputs of a node by name; zeros for an absent D or delta_bias, as the exporter writes them."""
    signature = SIGNATURES[op_type]
    names = [*signature.inputs, *signature.optional]
    zeros = torch.zeros(tensors[2].shape[0]) if "D" in names else None  # type: ignore[union-attr]
    given = [zeros if tensor is None else tensor for tensor in tensors]
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, given, strict=False) if tensor is not None}


def node_model(
    op_type: str,
    values: Values,
    attributes: Mapping[str, Any],
    *,
    dynamic: bool = False,
    opset: int = 17,
    form: Form = "sums",
    nodes: int = 1,
) -> ModelProto:
    """A checked model whose graph inputs are the node's; with more nodes, each has attributes of its own (a list of them) and an output."""
    each: list[Mapping[str, Any]] = attributes if isinstance(attributes, list) else [attributes] * nodes
    outputs = [f"y{index}" for index in range(len(each))]
    made = [
        helper.make_node(op_type, list(values), [output], domain=DOMAIN, **PLUGIN_ATTRIBUTES, **own)
        for output, own in zip(outputs, each, strict=True)
    ]
    first = next(iter(values))
    graph = helper.make_graph(
        made,
        "one",
        [_info(name, value, dynamic) for name, value in values.items()],
        [_info(name, values[first], dynamic) for name in outputs],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = add_functions(helper.make_model(graph, opset_imports=imports, ir_version=9), form)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _info(name: str, value: NDArray[Any], dynamic: bool) -> onnx.ValueInfoProto:
    shape = [f"{name}_{axis}" if dynamic else size for axis, size in enumerate(value.shape)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)


def onnx_runtime(model: ModelProto, values: Values) -> list[NDArray[Any]]:
    """Outputs in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, values))


def onnx_reference(model: ModelProto, values: Values) -> list[NDArray[Any]]:
    """Outputs in onnx's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(None, values))


def openvino(model: ModelProto, values: Values) -> list[NDArray[Any]]:
    """Outputs in OpenVINO, of the inlined model."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(inlined(model).SerializeToString()), "CPU", settings)
    found = compiled(values)
    return [found[index] for index in range(len(model.graph.output))]


RUNTIMES: dict[str, Callable[[ModelProto, Values], list[NDArray[Any]]]] = {
    "ONNX Runtime": onnx_runtime,
    "onnx.reference": onnx_reference,
    "OpenVINO": openvino,
}
