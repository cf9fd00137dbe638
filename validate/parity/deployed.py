"""The stages of a deployed graph: its own pieces, and what the host does around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from segc.core.contract import INPUT, Contract
from segc.core.images import read_image
from segc.export.surgery import View
from segc.export.verify import as_maps
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.segmenter import network_image, network_inputs, resize_logits, resize_map, windows
from segc.validate.parity.cut import Misfit, Piece, find_cuts
from segc.validate.parity.trace import Array, Box, Trace, average

_PROBE = (50, 100, 200)
_PROBE_SIZE = 64


class DeployedPipeline:
    """A deploy graph cut at its stages; see ``segc.validate.parity.trace``.

    ``numbers`` tells what it computes with: ``fp32``, ``fp16`` or ``int8``.

    Args:
        path: the ONNX file.
        contract: the one it carries.
        std: standard deviation of the channels in the network's own order.

    Raises:
        UserError: the graph has no class decision to be cut at.
    """

    def __init__(self, path: Path, contract: Contract, std: Sequence[float]) -> None:
        model = load_graph(path)
        view = View(model)
        cuts = find_cuts(model, view, path)
        self.contract = contract
        self.numbers = _numbers(model)
        self._slides = contract.inference.mode == "slide"
        self._resize = Piece(model, view, INPUT, cuts.resized)
        self._normalize = Piece(model, view, cuts.resized, cuts.normalized, any_size=True)
        self._network = Piece(model, view, cuts.normalized, cuts.logits)
        self._upsample = Piece(model, view, cuts.logits, cuts.upsampled)
        self._decide = Piece(model, view, cuts.upsampled, cuts.output)
        self._order = self._channel_order()
        # The exporter may have put the division by the standard deviation into the first convolution.
        self.std = np.asarray(std, np.float32)[:, None, None]
        self._unscaled = np.ones_like(self.std) if cuts.scaled else self.std
        self.steps = {
            "decode": lambda trace: read_image(trace.path),
            "resize": self._resized,
            "normalize": self._normalized,
            "windows": self._windows,
            "logits": self._logits,
            "upsample": self._upsampled,
            "argmax": self._classes,
        }

    def _channel_order(self) -> list[int]:
        """Which sample of RGB each channel of the graph's resized image holds: told by an image of one colour."""
        height, width = self.contract.static_size or (_PROBE_SIZE, _PROBE_SIZE)
        probe = np.full((1, height, width, 3), _PROBE, np.uint8)
        found = self._resize(probe[0])
        seen = [round(float(level)) for level in found.reshape(3, -1).mean(1)] if found.shape[0] == 3 else []
        return [_PROBE.index(level) for level in seen] if sorted(seen) == sorted(_PROBE) else [0, 1, 2]

    def _resized(self, trace: Trace) -> Array:
        if self._slides:
            return network_image(trace.decode, self.contract.resize).astype(np.float32)
        found = self._resize(self._input(trace)[0]).astype(np.float32)
        return np.ascontiguousarray(found[np.argsort(self._order)].transpose(1, 2, 0))

    def _normalized(self, trace: Trace) -> Array:
        ordered = np.ascontiguousarray(trace.resize[..., self._order].transpose(2, 0, 1))
        return np.asarray(self._normalize(ordered).astype(np.float32) / self._unscaled)

    def _windows(self, trace: Trace) -> list[Box]:
        height, width = trace.resize.shape[:2]
        inference = self.contract.inference
        if inference.crop_size is None or inference.stride is None:
            return [(0, 0, height, width)]
        return list(windows((height, width), inference.crop_size, inference.stride))

    def _logits(self, trace: Trace) -> list[Array]:
        values = trace.normalize * self._unscaled
        images = self._input(trace)
        return [self._network(self._filled(values[:, y1:y2, x1:x2]), images).astype(np.float32) for y1, x1, y2, x2 in trace.windows]

    def _upsampled(self, trace: Trace) -> Array:
        images = self._input(trace)
        maps = [as_maps(self._upsample(logits, images).astype(np.float32)[None], images.shape[1:3])[0] for logits in trace.logits]
        if self._slides:
            found = average(maps, trace.windows, trace.normalize.shape[1:])
        elif len(maps) == 1:
            found = maps[0]
        else:
            raise Misfit(f"one pass over the image, not {len(maps)} windows")
        if self.contract.output != "argmax":
            return resize_logits(found, trace.size, self.contract.align_corners)
        # The host resizes the class map (nearest); that commutes with the decision, and here the logits are wanted at the image's size.
        return np.stack([resize_map(plane, trace.size) for plane in found])

    def _classes(self, trace: Trace) -> Array:
        if self.contract.output != "argmax" or self._input(trace).shape[1:3] != trace.size:
            return np.asarray(trace.upsample.argmax(0))
        return self._decide(trace.upsample, self._input(trace))

    def _input(self, trace: Trace) -> NDArray[np.uint8]:
        """What the graph itself would be fed: pieces of graphs of any size read its shape."""
        if self._slides:
            return np.zeros((1, *(self.contract.static_size or trace.resize.shape[:2]), 3), np.uint8)
        return self._batched(network_inputs(trace.decode, self.contract)[0][None])

    def _batched(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.repeat(images, self.contract.batch or 1, 0)

    def _filled(self, window: Array) -> Array:
        """A window that is smaller than the graph's, filled up with the mean colour."""
        size = self.contract.static_size
        if not self._slides or size is None:
            return window
        below, right = size[0] - window.shape[1], size[1] - window.shape[2]
        return np.pad(window, ((0, 0), (0, max(below, 0)), (0, max(right, 0))))


def _numbers(model: onnx.ModelProto) -> str:
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    return "fp16" if any(item.data_type == onnx.TensorProto.FLOAT16 for item in model.graph.initializer) else "fp32"
