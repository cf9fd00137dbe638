"""Share of pixels with the same class in torch and in ONNX Runtime, on a photograph."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
from skimage import data

from segc.core.contract import Size
from segc.core.images import write_image
from segc.export.exporter import GraphOptions, make_graph
from segc.export.verify import Limits
from segc.models.contract import contract_from_config
from segc.models.network import Network


def agreement(network: Network, size: Size) -> float:
    """Export a network for images of a size and compare; the graph is refused where it disagrees in more than a pixel of a thousand."""
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=size, network_size="input")
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        write_image(photo, cv2.resize(data.chelsea(), size[::-1], interpolation=cv2.INTER_AREA))
        _, parity = make_graph(network, contract, [photo], GraphOptions(limits=Limits()))
    return float(parity["pixel_agreement"])
