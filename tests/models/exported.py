"""Networks and their parts in ONNX Runtime: share of pixels with torch's class on a photograph, outputs at any size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn

from segc.core.contract import Size
from segc.core.images import write_image
from segc.export.exporter import GraphOptions, make_graph
from segc.export.segc_ops import add_functions, translation_table
from segc.export.verify import Limits
from segc.models.contract import contract_from_config
from segc.models.network import Network


def run_at_any_size(module: nn.Module, example: Tensor) -> Callable[[Tensor], NDArray[Any]]:
    """A map (N, C, H, W) -> one output: the module in ONNX Runtime, exported with open height and width from an example."""
    axes = {"x": {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    program = torch.onnx.export(
        module, (example,), dynamo=True, dynamic_shapes=axes, input_names=["x"], custom_translation_table=translation_table(), verbose=False
    )
    assert program is not None
    session = onnxruntime.InferenceSession(add_functions(program.model_proto).SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def agreement(network: Network, size: Size) -> float:
    """Export a network for images of a size and compare; the graph is refused where it disagrees in more than a pixel of a thousand."""
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=size, network_size="input")
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        write_image(photo, cv2.resize(data.chelsea(), size[::-1], interpolation=cv2.INTER_AREA))
        _, parity = make_graph(network, contract, [photo], GraphOptions(limits=Limits()))
    return float(parity["pixel_agreement"])
