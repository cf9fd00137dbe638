"""What an engine really computes in: its layers, as TensorRT's engine inspector (JSON) or its builder's log lists them.

Three forms were seen, and all are read: JSON with ``Format/Datatype`` (TensorRT 8 to 10), JSON or log lines with ``Format/Datatype:
Half`` (10.x), log lines with ``Datatype`` and ``Format`` apart (TensorRT-RTX 1.7).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from segc.core.errors import UserError

Role = Literal["matrix", "other", "reformat", "none"]
# Longest first: "BFloat16" holds "Float", "UInt8" holds "Int8".
_TYPES = {
    "bf16": r"bf16|bfloat16",
    "fp8": r"fp8|float8",
    "uint8": r"uint8",
    "int8": r"int8",
    "int4": r"int4",
    "fp16": r"fp16|half",
    "fp32": r"fp32|float",
    "int64": r"int64",
    "int32": r"int32",
    "bool": r"bool",
}
_FLOATS = ("fp32", "bf16", "fp16", "fp8")
_NARROW_FIRST = ("int4", "int8", "fp8", "fp16", "bf16", "fp32")
_MATRIX_KIND = re.compile(r"conv|correlation|gemm|matrixmultiply|fullyconnected|attention", re.IGNORECASE)
# A fused kernel says what is in it in its name: a convolution (Corr), a matrix product (Fc, Gemm, MatMul), attention (Mha).
_MATRIX_NAME = re.compile(r"__myl_\w*?(?:Corr|Conv|Fc|Gemm|MatMul|Mha)(?=[A-Z_]|$)|_gemm_|gemm_mha")
_NO_WORK = ("signal", "wait", "shape_call", "NoOp", "Constant", "TrainStation", "ShapeHostToDevice")
_REFORMAT = re.compile(r"^Reformat", re.IGNORECASE)
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TENSOR = re.compile(r"\{ Name: (.*?), (?:Location: \w+, )?Dimensions: \[([-\d,]*)\],? (.*?) ?\}(?=,|\])")
_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<rest>.*)$")


@dataclass(frozen=True)
class Tensor:
    """A tensor between layers: its number format (``fp16``, ``int8``, ...; "" where it is not told) and its memory layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, several nodes fused.

    role: ``matrix`` (a convolution or matrix product: most of the work), ``other`` (element by element, pooling, resizing), ``reformat``
    (only moves or converts), ``none`` (no work on the GPU). precision: what it computes in, "" for ``none``. nodes: the ONNX nodes in it,
    where TensorRT says so.
    """

    name: str
    kind: str
    role: Role
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tactic: str = ""
    nodes: tuple[str, ...] = ()


def parse_layers(text: str) -> list[Layer]:
    """Layers of an inspector's JSON (of a whole engine) or of the builder's log, in order.

    Raises:
        UserError: neither, or built without detailed profiling verbosity, so that only names are told.
    """
    layers = _from_json(text) if text.lstrip().startswith("{") else _from_log(text)
    if not layers:
        raise UserError("the engine's layer information lists no layers.", "Build with --profilingVerbosity=detailed, as segc does.")
    return layers


def to_json(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [asdict(layer) for layer in layers]


def _from_json(text: str) -> list[Layer]:
    try:
        found = json.loads(text)["Layers"]
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"not an engine inspector's JSON: {error!r}.") from error
    if any(isinstance(item, str) for item in found):
        raise UserError("the engine tells the names of its layers only.", "Build it with --profilingVerbosity=detailed, as segc does.")
    return [_layer_of_json(item) for item in found]


def _layer_of_json(item: Mapping[str, Any]) -> Layer:
    inputs, outputs, constants = ([_tensor_of_json(tensor) for tensor in item.get(key, [])] for key in ("Inputs", "Outputs", "Constants"))
    weights = item.get("Weights")
    if isinstance(weights, Mapping):
        constants.append(Tensor("weights", (), _dtype(str(weights.get("Type", ""))), ""))
    return _layer(
        item.get("Name", ""), item.get("LayerType", ""), inputs, constants, outputs, item.get("TacticName", ""), item.get("Metadata", "")
    )


def _tensor_of_json(tensor: Mapping[str, Any]) -> Tensor:
    told = tensor.get("Format/Datatype", "")
    kind, layout = tensor.get("Datatype", told), tensor.get("Format", told)
    return Tensor(tensor.get("Name", ""), tuple(tensor.get("Dimensions", ())), _dtype(str(kind)), str(layout))


def _from_log(text: str) -> list[Layer]:
    return [_layer_of_line(found) for line in text.splitlines() if (found := _LINE.match(line.strip()))]


def _layer_of_line(found: re.Match[str]) -> Layer:
    inputs, _, rest = found["rest"].partition("Outputs: [")
    inputs, _, constants = inputs.partition("Constants: [")
    outputs, _, after = rest.partition("TacticName: ")
    tactic, _, metadata = after.partition(", StreamId")
    read, constant, written = (_tensors(part) for part in (inputs, constants, outputs))
    return _layer(found["name"], found["kind"], read, constant, written, tactic, metadata)


def _tensors(text: str) -> list[Tensor]:
    return [
        Tensor(
            name, tuple(int(size) for size in shape.split(",") if size), _dtype(_told_type(rest)), rest.partition("Format")[2].lstrip(": ")
        )
        for name, shape, rest in _TENSOR.findall(text)
    ]


def _told_type(text: str) -> str:
    """What stands behind ``Datatype:`` up to the format: strides and orders hold no type names, formats do."""
    return text.partition("Datatype: ")[2].partition(", Format:")[0]


def _layer(name: str, kind: str, inputs: list[Tensor], constants: list[Tensor], outputs: list[Tensor], tactic: str, metadata: str) -> Layer:
    role = _role(name, kind)
    precision = "" if role == "none" else _precision(role, inputs, constants, outputs)
    return Layer(name, kind, role, precision, tuple(inputs), tuple(outputs), tactic, tuple(_ONNX.findall(metadata)))


def _role(name: str, kind: str) -> Role:
    if kind in _NO_WORK:
        return "none"
    if _REFORMAT.match(kind):
        return "reformat"
    return "matrix" if _MATRIX_KIND.search(kind) or _MATRIX_NAME.search(name) else "other"


def _precision(role: Role, inputs: list[Tensor], constants: list[Tensor], outputs: list[Tensor]) -> str:
    """A matrix layer computes in the narrowest type it reads (scales and biases are wider); others in the widest float they touch."""
    read = {tensor.dtype for tensor in (*inputs, *constants)}
    if role == "matrix":
        return next((kind for kind in _NARROW_FIRST if kind in read), "")
    touched = {tensor.dtype for tensor in (*inputs, *outputs)}
    whole = sorted(touched - {"", "bool"})
    return next((kind for kind in _FLOATS if kind in touched), whole[0] if whole else "")


def _dtype(text: str) -> str:
    return next((name for name, pattern in _TYPES.items() if re.search(pattern, text, re.IGNORECASE)), "")
