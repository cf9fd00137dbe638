"""Where the stages of a deploy graph end, found in the graph as it ships, and a runnable graph of what lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from segc.core.contract import INPUT
from segc.core.errors import UserError
from segc.export.surgery import View, decided_on, drop_unused
from segc.export.verify import cpu_session
from segc.runtime.backends.onnx_runtime import DISABLED_OPTIMIZERS, WRONG_FOR_HALF

_SAMPLING = ("Cast", "Transpose", "Gather", "Slice", "Resize", "Floor", "Round", "Clip", "Identity")
_AFFINE = ("Add", "Sub", "Mul", "Div")
_UPSAMPLING = ("Resize", "Slice", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Softmax")
_LARGEST_AFFINE = 3  # values: one a channel
_WRONG = (*DISABLED_OPTIMIZERS, *WRONG_FOR_HALF)


class Misfit(Exception):
    """A piece of a graph cannot take these values: its size is fixed at another one."""


@dataclass(frozen=True)
class Cuts:
    """Tensors of a deploy graph at which its stages end; stages that the graph does not have end where the one before does.

    resized: the image at the network's size, grey levels. normalized: what the network reads; ``scaled`` tells whether it is divided by
    the standard deviation already, which the exporter folds into the first convolution. logits: the network's own; upsampled: at the
    size of the graph's input, what the class is decided on (logits or probabilities). output: what the graph gives.
    """

    resized: str
    normalized: str
    scaled: bool
    logits: str
    upsampled: str
    output: str


def find_cuts(model: ModelProto, view: View, path: Path) -> Cuts:
    """The stages of a deploy graph, by its operators: from the image up to the first that is not preprocessing, and back from the output.

    Raises:
        UserError: the graph has no class decision above its output; ``path`` is named.
    """
    chain = _preprocessing(model, view)
    start = next((index + 1 for index in reversed(range(len(chain))) if chain[index].op_type not in (*_AFFINE, "Cast")), 0)
    affine = [node.op_type for node in chain[start:]]
    normalized = chain[-1].output[0] if chain else INPUT
    resized = (chain[start - 1].output[0] if start else INPUT) if set(affine) & set(_AFFINE) else normalized
    upsampled = decided_on(model)
    if upsampled is None:
        raise UserError(f"{path} has no ArgMax above its class map: its stages cannot be told apart.", "Export it again.")
    scaled = bool({"Mul", "Div"} & set(affine))
    return Cuts(resized, normalized, scaled, _before_upsampling(upsampled, view), upsampled, model.graph.output[0].name)


def _preprocessing(model: ModelProto, view: View) -> list[NodeProto]:
    """The nodes that an image passes one after the other before the network forks it, convolves it or reorders it again."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type != "Shape":
            for name in set(node.input):
                readers.setdefault(name, []).append(node)
    chain: list[NodeProto] = []
    name = INPUT
    while len(readers.get(name, [])) == 1 and _preprocesses(node := readers[name][0], name, view, chain):
        chain.append(node)
        name = node.output[0]
    return chain


def _preprocesses(node: NodeProto, name: str, view: View, chain: list[NodeProto]) -> bool:
    if node.op_type == "Transpose":
        return all(before.op_type != "Transpose" for before in chain)
    if node.op_type in _SAMPLING:
        return bool(node.input[0] == name)
    others = [view.value(other) for other in node.input if other != name]
    return node.op_type in _AFFINE and all(other is not None and other.size <= _LARGEST_AFFINE for other in others)


def _before_upsampling(name: str, view: View) -> str:
    """The tensor below the resizes that bring the logits to the image's size."""
    found = name
    while (node := view.makers.get(name)) is not None and node.op_type in _UPSAMPLING:
        name = node.input[0]
        found = name if node.op_type == "Resize" else found
    return found


class Piece:
    """The part of a graph that turns one tensor into another, in ONNX Runtime on the CPU; ``INPUT`` is fed beside it where it is read.

    Args:
        model, view: the deploy graph.
        source, result: names of tensors.
        any_size: the part acts pixel by pixel, so that maps of any size may be given whatever the graph says.
    """

    def __init__(self, model: ModelProto, view: View, source: str, result: str, any_size: bool = False) -> None:
        self.source = source
        self._same = source == result
        self._shape = [] if any_size else view.shape(source)
        self._session = None if self._same else cpu_session(_between(model, source, result, any_size), _WRONG)

    def __call__(self, value: NDArray[Any], images: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """The result for one sample (without the batch axis) of the source; ``images`` is the graph's own input, batch included.

        Raises:
            Misfit: the part takes another size.
        """
        if self._session is None:
            return value
        wanted = {item.name: item for item in self._session.get_inputs()}
        feed = {INPUT: images} if INPUT in wanted and images is not None else {}
        if self.source in wanted:
            feed[self.source] = self._batched(value, wanted[self.source].type)
        try:
            return np.asarray(self._session.run(None, feed)[0][0])
        except Exception as error:  # ONNX Runtime raises its own unrelated types
            raise Misfit(str(error).splitlines()[0][:200]) from error

    def _batched(self, value: NDArray[Any], kind: str) -> NDArray[Any]:
        """The sample in the graph's layout and type, as often as a static batch has images."""
        shape = self._shape[1:]
        if shape and int(np.prod(shape)) == value.size and len(shape) < value.ndim:
            value = value.reshape(shape)
        if shape and list(value.shape) != shape:
            raise Misfit(f"it takes {'x'.join(map(str, shape))}, not {'x'.join(map(str, value.shape))}")
        dtype = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(kind, np.float32)
        return np.repeat(np.ascontiguousarray(value[None], dtype), self._shape[0] if self._shape else 1, 0)


def _between(model: ModelProto, source: str, result: str, any_size: bool) -> ModelProto:
    """A copy of the graph that reads ``source`` and gives ``result``."""
    part = ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    if source != INPUT:
        kinds = {item.name: item for item in graph.value_info}
        info = kinds.get(source) or helper.make_tensor_value_info(source, TensorProto.FLOAT, None)
        for node in [node for node in graph.node if source in node.output]:
            graph.node.remove(node)
        graph.input.append(_without_shape(info) if any_size else info)
    del graph.output[:]
    graph.output.append(_without_shape(_info(model, result)))
    del graph.value_info[:]
    drop_unused(part)
    used = {name for node in graph.node for name in node.input}
    for item in [item for item in graph.input if item.name not in used]:
        graph.input.remove(item)
    return part


def _info(model: ModelProto, name: str) -> onnx.ValueInfoProto:
    known = {item.name: item for item in (*model.graph.value_info, *model.graph.output)}
    return known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _without_shape(info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, None)
