"""How the exporters of torch write the operators of ``segc.ops``: one node each, in the domain ``segc``.

``add_functions`` then puts each operator's body into the model: a runtime that has the operator (a TensorRT plugin) takes the node, every
other one its body; ``inlined`` is for runtimes that know no functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper

from segc.ops.onnx_functions.library import add_functions, inlined
from segc.ops.onnx_functions.signature import (
    CROSS_SELECTIVE_SCAN,
    DOMAIN,
    DOMAIN_VERSION,
    NEIGHBORHOOD_ATTENTION_2D,
    PLUGIN_ATTRIBUTES,
    SELECTIVE_SCAN,
    SIGNATURES,
    Signature,
)

__all__ = ["add_functions", "inlined", "torchscript_symbolics", "translation_table"]


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """``custom_translation_table`` of ``torch.onnx.export(dynamo=True)``: the torch operators as segc nodes."""
    from onnxscript import opset18, values

    # They register the torch operators.
    import segc.ops.attention
    import segc.ops.scan  # noqa: F401

    domain = values.Opset(DOMAIN, DOMAIN_VERSION)
    make = {name: partial(values.Op(domain, name, _schema(signature)), **PLUGIN_ATTRIBUTES) for name, signature in SIGNATURES.items()}

    def zeros(A: Any) -> Any:
        return opset18.Constant(value=numpy_helper.from_array(np.zeros(int(A.shape[0]), np.float32)))

    def scan_node(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, delta_bias: Any, delta_softplus: bool, reverse: bool) -> Any:
        weights = (zeros(A) if D is None else D, zeros(A) if delta_bias is None else delta_bias)
        return make["SelectiveScan"](u, delta, A, B, C, *weights, delta_softplus=int(delta_softplus), reverse=int(reverse))

    def cross_node(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, delta_bias: Any, delta_softplus: bool) -> Any:
        weights = (zeros(A) if D is None else D, zeros(A) if delta_bias is None else delta_bias)
        return make["CrossSelectiveScan"](u, delta, A, B, C, *weights, delta_softplus=int(delta_softplus))

    def attention_node(q: Any, k: Any, v: Any, kernel_size: Sequence[int], dilation: Sequence[int], scale: float, rpb: Any) -> Any:
        inputs = (q, k, v) if rpb is None else (q, k, v, rpb)
        window = {"kernel_size": [int(size) for size in kernel_size], "dilation": [int(step) for step in dilation]}
        return make["NeighborhoodAttention2D"](*inputs, **window, scale=float(scale))

    ops = torch.ops.segc
    return {
        ops.selective_scan.default: scan_node,
        ops.cross_selective_scan.default: cross_node,
        ops.neighborhood_attention_2d.default: attention_node,
    }


def _schema(signature: Signature) -> Any:
    """An operator as onnxscript wants to know it."""
    from onnx.defs import OpSchema

    optional = OpSchema.FormalParameterOption.Optional
    inputs = [OpSchema.FormalParameter(name, name) for name in signature.inputs]
    inputs += [OpSchema.FormalParameter(name, name, param_option=optional) for name in signature.optional]
    kinds = {**signature.attributes, **dict.fromkeys(PLUGIN_ATTRIBUTES, "string")}
    types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    return OpSchema(
        signature.op_type,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=inputs,
        outputs=[OpSchema.FormalParameter(signature.output, signature.inputs[0])],
        type_constraints=[(name, types, "") for name in (*signature.inputs, *signature.optional)],
        attributes=[OpSchema.Attribute(name, getattr(OpSchema.AttrType, kind.upper())) for name, kind in kinds.items()],
    )


@contextmanager
def torchscript_symbolics(opset: int) -> Iterator[None]:
    """Let ``torch.onnx.export(dynamo=False)`` write the torch operators as segc nodes, inside this context."""
    from torch.onnx import register_custom_op_symbolic, unregister_custom_op_symbolic

    symbolics: dict[str, Callable[..., Any]] = {
        "selective_scan": _scan_symbolic,
        "cross_selective_scan": _scan_symbolic,
        "neighborhood_attention_2d": _attention_symbolic,
    }
    for name, symbolic in symbolics.items():
        register_custom_op_symbolic(f"segc::{name}", symbolic, opset)
    try:
        yield
    finally:
        for name in symbolics:
            unregister_custom_op_symbolic(f"segc::{name}", opset)


def _scan_symbolic(g: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, delta_bias: Any, *flags: Any) -> Any:
    """Both scans; the flags are delta_softplus and, of the plain scan, reverse."""
    signature = SELECTIVE_SCAN if len(flags) == 2 else CROSS_SELECTIVE_SCAN
    channels = A.type().sizes()[0]
    weights = (g.op("Constant", value_t=torch.zeros(channels)) if _is_none(weight) else weight for weight in (D, delta_bias))
    values = {f"{name}_i": int(_constant(flag, "b")) for name, flag in zip(signature.attributes, flags, strict=True)}
    return _symbolic_node(g, signature.op_type, [u, delta, A, B, C, *weights], values)


def _attention_symbolic(g: Any, q: Any, k: Any, v: Any, kernel_size: Any, dilation: Any, scale: Any, rpb: Any) -> Any:
    values = {"kernel_size_i": _constant(kernel_size, "is"), "dilation_i": _constant(dilation, "is"), "scale_f": _constant(scale, "f")}
    inputs = [q, k, v] if _is_none(rpb) else [q, k, v, rpb]
    return _symbolic_node(g, NEIGHBORHOOD_ATTENTION_2D.op_type, inputs, values)


def _symbolic_node(g: Any, op_type: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    plugin = {f"{name}_s": value for name, value in PLUGIN_ATTRIBUTES.items()}
    return g.op(f"{DOMAIN}::{op_type}", *inputs, **attributes, **plugin).setType(inputs[0].type())


def _constant(value: Any, kind: str) -> Any:
    """What an argument of a traced call holds."""
    from torch.onnx import symbolic_helper

    return symbolic_helper._get_const(value, kind, "an argument of a segc operator")


def _is_none(value: Any) -> bool:
    return value is None or value.node().mustBeNone()
