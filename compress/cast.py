"""Lower the float nodes of a graph to fp16 by casts; what must stay in fp32 stays, and says why.

TensorRT 10 and 11 build strongly typed networks: the graph carries the precision. A Q/DQ graph is lowered too (its scales with it), since
the nodes that int8 leaves in float would run in fp32 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segc.compress.placement import WEIGHTED
from segc.core.contract import FLOAT_KEY, INPUT
from segc.ops.onnx_functions.signature import SIGNATURES

PAIR = ("QuantizeLinear", "DequantizeLinear")
# The sampling positions of these are sums and products of indices: half precision would move them by parts of a pixel.
_SAMPLERS = {"GridSample": 1}
_CASTS = ("Cast", "Constant", "ConstantOfShape")

REASON_BEFORE = "preprocessing or shape arithmetic: works on pixel values or sizes, not on activations"
REASON_POSITIONS = "computes sampling positions"
REASON_SUBGRAPH = "has a subgraph"
REASON_PAIR = "stays with its Q/DQ pairs, of which one needs fp32"
REASON_USER = "kept by name"


@dataclass(frozen=True)
class Format:
    """A 16-bit float: its ONNX type, its largest value, and the smallest that it holds with 7 bits."""

    name: str
    kind: int
    largest: float
    smallest: float


FP16 = Format("fp16", TensorProto.FLOAT16, 65504.0, 2.0**-17)
# As wide as fp32, with 8 bits of precision down to its smallest normal number.
BF16 = Format("bf16", TensorProto.BFLOAT16, 3.3895e38, 2.0**-126)


class Floats:
    """Which tensors of a graph are fp32, where they come from and who reads them."""

    def __init__(self, model: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model)
        graph = inferred.graph
        self.opset = {item.domain: int(item.version) for item in model.opset_import}
        self.nodes: Sequence[NodeProto] = graph.node
        self.constants = {item.name: item for item in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.outputs = {item.name for item in graph.output}
        types = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.value_info, *graph.output)}
        self.names = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self.names |= {name for name, item in self.constants.items() if item.data_type == TensorProto.FLOAT}

    def touched(self, node: NodeProto) -> list[str]:
        """Names of the fp32 tensors a node reads or writes."""
        return [name for name in (*node.input, *node.output) if name in self.names]

    def castable(self, node: NodeProto, kind: int) -> list[int]:
        """Positions of the fp32 inputs that the operator's schema also takes in ``kind``."""
        takes = self._takes(node, kind)
        return [index for index, name in enumerate(node.input) if name in self.names and takes(index)]

    def lowers(self, node: NodeProto, kind: int) -> bool:
        """True when the node has a form that reads or makes ``kind``."""
        makes_low = node.op_type in _CASTS and any(name in self.names for name in node.output)
        return makes_low or bool(self.castable(node, kind))

    def _takes(self, node: NodeProto, kind: int) -> Callable[[int], bool]:
        if node.domain not in ("", "ai.onnx"):
            return lambda index: _first_type_inputs(node)[index]
        schema = onnx.defs.get_schema(node.op_type, self.opset.get("", self.opset.get("ai.onnx", 1)), "")
        wanted = f"tensor({TensorProto.DataType.Name(kind).lower()})"
        able = {item.type_param_str for item in schema.type_constraints if wanted in item.allowed_type_strs}
        return lambda index: schema.inputs[min(index, len(schema.inputs) - 1)].type_str in able


def _first_type_inputs(node: NodeProto) -> list[bool]:
    """For each input of a ``segc`` node, whether it has the type of the first one (``segc.ops.onnx_functions.signature``)."""
    fixed = {"A", "D", "delta_bias"}
    signature = SIGNATURES[node.op_type]
    return [name not in fixed for name in (*signature.inputs, *signature.optional)]


def keep_in_fp32(
    model: ModelProto, target: Format, magnitudes: Mapping[str, float], keep: Iterable[str] = (), headroom: float = 2.0
) -> dict[str, str]:
    """Node -> reason, for every float node that stays in fp32.

    Args:
        model: an fp32 or a Q/DQ deploy graph.
        target: the format.
        magnitudes: tensor -> largest magnitude on real images.
        keep: names of nodes to leave in fp32.
        headroom: a tensor stays in fp32 when it comes within this factor of the format's largest value: other images reach further.
    """
    floats = Floats(model)
    found = dict.fromkeys(keep, REASON_USER)
    for rule in (_without_form, _unreached, _positions):
        found = {**rule(floats, target), **found}
    for node in floats.nodes:
        wide = [told for name in floats.touched(node) if (told := _out_of_range(floats, name, target, magnitudes, headroom))]
        if wide:
            found.setdefault(node.name, wide[0])
    found = {**_with_pairs(floats, found), **found}
    return {node.name: found[node.name] for node in floats.nodes if node.name in found and floats.touched(node)}


def _without_form(floats: Floats, target: Format) -> dict[str, str]:
    found = {}
    for node in floats.nodes:
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            found[node.name] = REASON_SUBGRAPH
        elif floats.touched(node) and not floats.lowers(node, target.kind):
            found[node.name] = f"{node.op_type} has no {target.name} form in opset {floats.opset.get('', 1)}"
    return found


def _unreached(floats: Floats, target: Format) -> dict[str, str]:
    """Nodes that depend on the image or on a size, but on no activation: what a Shape gives is no activation."""
    fed = {INPUT}
    active: set[str] = set()
    found = {}
    for node in floats.nodes:
        if node.op_type in WEIGHTED + PAIR or any(name in active for name in node.input):
            active.update(() if node.op_type in ("Shape", "Size") else node.output)
        elif any(name in fed or name in active for name in node.input) and node.op_type not in ("Shape", "Size"):
            found[node.name] = REASON_BEFORE
        if any(name in fed or name in active for name in node.input):
            fed.update(node.output)
    return found


def _positions(floats: Floats, target: Format) -> dict[str, str]:
    """The samplers, and what computes their positions up to the nearest weighted nodes."""
    found = {}
    waiting = [node for node in floats.nodes if node.op_type in _SAMPLERS]
    names = [node.input[_SAMPLERS[node.op_type]] for node in waiting]
    found.update({node.name: REASON_POSITIONS for node in waiting})
    while names:
        node = floats.makers.get(names.pop())
        if node is not None and node.name not in found and node.op_type not in WEIGHTED:
            found[node.name] = REASON_POSITIONS
            names += list(node.input)
    return found


def _out_of_range(floats: Floats, name: str, target: Format, magnitudes: Mapping[str, float], headroom: float) -> str:
    """Why a tensor does not fit the format, empty when it does."""
    constant = floats.constants.get(name)
    amax = _amax(constant) if constant is not None else magnitudes.get(name, 0.0)
    if amax * (1.0 if constant is not None else headroom) > target.largest:
        return f"{name} reaches {amax:.3g}; {target.name} ends at {target.largest:.5g}"
    if 0 < amax < target.smallest:
        return f"{name} reaches only {amax:.3g}; {target.name} has fewer than 7 bits below {target.smallest:.2g}"
    return ""


def _with_pairs(floats: Floats, found: Mapping[str, str]) -> dict[str, str]:
    """Weighted nodes and the Q/DQ pairs that feed them, where one of them is kept: a cast between them would undo the int8 product."""
    together = {}
    for node in floats.nodes:
        feeding = [floats.makers[name] for name in node.input if name in floats.makers and floats.makers[name].op_type in PAIR]
        if node.op_type not in WEIGHTED or not feeding:
            continue
        sources = [floats.makers[each.input[0]] for each in feeding if each.input[0] in floats.makers]
        group = {each.name for each in (node, *feeding, *sources) if each.op_type in (*WEIGHTED, *PAIR)}
        if group & set(found):
            together.update(dict.fromkeys(group, REASON_PAIR))
    return together


def _amax(constant: TensorProto) -> float:
    return float(np.abs(numpy_helper.to_array(constant)).max(initial=0.0))


def cast_graph(model: ModelProto, target: Format, kept: Iterable[str]) -> ModelProto:
    """A copy of ``model`` whose float nodes compute in ``target``, but for the ``kept`` ones; inputs and outputs keep their types.

    One cast a tensor and direction; constants are stored in the format they are read in.
    """
    writer = _Writer(model, target, frozenset(kept))
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.value_info[:], copy.graph.initializer[:]
    copy.graph.node.extend(writer.nodes())
    copy.graph.initializer.extend(writer.constants(copy))
    helper.set_model_props(copy, {**{item.key: item.value for item in model.metadata_props}, FLOAT_KEY: target.name})
    return onnx.shape_inference.infer_shapes(copy)


class _Writer:
    """Writes the nodes of the lowered graph in order and remembers which tensor exists in which format."""

    def __init__(self, model: ModelProto, target: Format, kept: frozenset[str]) -> None:
        self.floats = Floats(model)
        self.target = target
        self.kept = kept | self._constants_of(kept)
        self.low: set[str] = set()
        self.casts: dict[str, NodeProto] = {}
        self.halved: dict[str, TensorProto] = {}

    def _constants_of(self, kept: frozenset[str]) -> set[str]:
        """Nodes that compute on constants alone, for kept readers only: rounding there would not be undone by a cast."""
        fixed: set[str] = set(self.floats.constants)
        alone = []
        for node in self.floats.nodes:
            if all(name in fixed or not name for name in node.input) and node.op_type not in PAIR:
                fixed.update(node.output)
                alone.append(node)
        readers: dict[str, list[str]] = {}
        for node in self.floats.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node.name)
        found: set[str] = set()
        for node in reversed(alone):
            names = [reader for output in node.output for reader in readers.get(output, [])]
            if names and all(name in kept or name in found for name in names):
                found.add(node.name)
        return found

    def nodes(self) -> Iterator[NodeProto]:
        """The nodes of the lowered graph, in topological order."""
        for node in self.floats.nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            lowered = bool(self.floats.touched(node)) and node.name not in self.kept
            yield from self._read_low(copy) if lowered else self._read_full(copy)
            after = list(self._write_low(copy)) if lowered else []
            yield copy
            yield from after

    def constants(self, copy: ModelProto) -> list[TensorProto]:
        """The initializers that the lowered graph still reads, in the format it reads them in."""
        read = {name for node in copy.graph.node for name in node.input} | self.floats.outputs
        return [item for item in (*self.floats.constants.values(), *self.halved.values()) if item.name in read]

    def _read_low(self, node: NodeProto) -> Iterator[NodeProto]:
        castable = self.floats.castable(node, self.target.kind)
        yield from self._read_full(node, but=castable)
        for index in castable:
            name = node.input[index]
            if name in self.floats.constants:
                node.input[index] = self._half(name)
            elif name not in self.low:
                yield from self._cast(name, self.target.kind, self.target.name)
                node.input[index] = f"{name}_{self.target.name}"

    def _read_full(self, node: NodeProto, but: Sequence[int] = ()) -> Iterator[NodeProto]:
        for index, name in enumerate(node.input):
            if name in self.low and index not in but:
                yield from self._cast(name, TensorProto.FLOAT, "fp32")
                node.input[index] = f"{name}_fp32"

    def _write_low(self, node: NodeProto) -> Iterator[NodeProto]:
        _retype(node, self.target.kind)
        for index, name in enumerate(node.output):
            if name not in self.floats.names:
                continue
            if name in self.floats.outputs:
                node.output[index] = f"{name}_{self.target.name}"
                self.low.add(node.output[index])
                yield helper.make_node("Cast", [node.output[index]], [name], f"{name}_to_fp32", to=TensorProto.FLOAT)
            else:
                self.low.add(name)

    def _cast(self, name: str, kind: int, label: str) -> Iterator[NodeProto]:
        key = f"{name}_{label}"
        if key not in self.casts:
            self.casts[key] = helper.make_node("Cast", [name], [key], f"{name}_to_{label}", to=kind)
            yield self.casts[key]

    def _half(self, name: str) -> str:
        key = f"{name}_{self.target.name}"
        if key not in self.halved:
            self.halved[key] = _half_tensor(self.floats.constants[name], self.target.kind, key)
        return key


def _half_tensor(constant: TensorProto, kind: int, name: str) -> TensorProto:
    values = numpy_helper.to_array(constant).astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(values, name)


def _retype(node: NodeProto, kind: int) -> None:
    """Make a node that states its output's type state ``kind`` where it stated fp32."""
    for item in node.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
            item.i = kind
        elif node.op_type in _CASTS and item.name == "value" and item.t.data_type == TensorProto.FLOAT:
            item.t.CopyFrom(_half_tensor(item.t, kind, item.t.name))
