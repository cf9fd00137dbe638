"""TensorRT-RTX builds the fp32 and int8 graphs that the export makes today, without a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from segc.calib.calibrate import calibrate
from segc.compress.quantize import quantize_bundle
from segc.export.engine import rtx
from segc.export.exporter import export_network
from segc.runtime.bundle import graph_file
from tests.smallnet import photos

pytestmark = pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")

SEGFORMER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
DEEPLAB = "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py"
NARROW = {
    "model.backbone.embed_dims": 8, "model.backbone.num_layers": [1, 1, 1, 1], "model.decode_head.in_channels": [8, 16, 40, 64],
    "model.decode_head.channels": 16,
}  # fmt: skip


def built(config: str, overrides: dict[str, Any] | None, size: tuple[int, int], folder: Path) -> None:
    """Export with random weights, quantize, and build both graphs."""
    bundle, images = folder / "bundle", photos(folder)
    export_network(
        config, None, bundle, input_size=size, network_size="input", images=images, overrides=overrides or {}, random_weights=True
    )
    calibrate(bundle, images, count=len(images))
    quantize_bundle(bundle, images=images, least_agreement=0.0)
    for precision in ("fp32", "int8"):
        ops = Counter(node.op_type for node in onnx.load(bundle / graph_file(precision)).graph.node)
        found = rtx.build(bundle / graph_file(precision), "8.6")
        print(f"{config} {precision}: {found}")
        assert found.layers >= ops["Conv"] + ops["MatMul"] + ops["QuantizeLinear"] > 0
        assert bool(ops["QuantizeLinear"]) == (precision == "int8")


def test_a_small_segformer_is_built(tmp_path: Path) -> None:
    built(SEGFORMER, NARROW, (64, 64), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["segc::quickstart/quickstart.py", SEGFORMER, DEEPLAB])
def test_whole_networks_are_built(config: str, tmp_path: Path) -> None:
    built(config, None, (512, 512), tmp_path)
