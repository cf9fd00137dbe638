"""Deploy graphs of SegFormer-B0 and DeepLabV3+ R50 at 512x512, fp32 and int8, on ONNX Runtime and OpenVINO, against our torch backend.

That is torch eager with batch normalisations folded into convolutions (``segc.models.fold``).

    python -m benchmarks.latency [NETWORK ...]

One process, interleaved rounds, batch 1, two threads, 11 classes. Weights are random (latency does not depend on their values), with
batch-norm statistics of real images so that activations have sane ranges. Results: benchmarks/results/latency.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from segc.calib.calibrate import calibrate
from segc.compress.quantize import quantize_bundle
from segc.core.files import read_json, write_json
from segc.core.images import read_image
from segc.core.rows import Row, environment, value_of
from segc.data.dataset import open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.engine import rtx
from segc.export.exporter import export_network
from segc.models.network import Network, load_network, save_network
from segc.runtime.benchmark import all_targets, benchmark_many
from segc.runtime.bundle import graph_file, read_manifest

RESULTS = Path(__file__).parent / "results" / "latency.json"
SIZE, CLASSES, THREADS = (512, 512), 11, 2
CALIBRATION_IMAGES = 16
NETWORKS = {
    "SegFormer-B0": ("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", ["decode_head"], 40),
    "DeepLabV3+ R50": ("mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py", ["decode_head", "auxiliary_head"], 10),
}


def main(names: list[str]) -> None:
    """Measure the named networks (all when none is named) and store their rows."""
    stored = read_json(RESULTS) if RESULTS.exists() else {"networks": {}}
    for name in names or NETWORKS:
        stored["networks"][name] = measure(name)
        write_json(RESULTS, stored)
        for row in stored["networks"][name]["rows"]:
            where = f"{row['conditions'].get('precision', '')} {row['conditions'].get('backend', '')}"
            print(f"{name:16s} {row['metric']:34s} {where:18s} {row['value']:9.2f} {row['unit']}")


def measure(name: str) -> dict[str, Any]:
    """Build one network's bundle in a temporary folder and time it."""
    config, heads, runs = NETWORKS[name]
    data = embedded_dataset()
    training, validation = open_dataset(data, split="train"), open_dataset(data, split="val")
    with tempfile.TemporaryDirectory() as folder:
        weights, bundle = Path(folder) / "weights.safetensors", Path(folder) / "bundle"
        overrides = {f"model.{head}.num_classes": CLASSES for head in heads}
        network = load_network(config, None, overrides=overrides, random_weights=True, classes=list(training.spec.classes))
        settle_batch_norm(network, training.image_paths[:4])
        save_network(network, weights)
        images = validation.image_paths
        export_network(None, weights, bundle, input_size=SIZE, network_size="input", images=images)
        calibrate(bundle, training.image_paths, count=CALIBRATION_IMAGES, threads=THREADS)
        quantize_bundle(bundle, images=images, least_agreement=0.0)
        results = benchmark_many(all_targets(bundle, weights), threads=THREADS, warmup=3, runs=runs, images=images[:8])
        rows = [*rows_of(results), *rtx_rows(bundle)]
    return {"rows": [row.model_dump() for row in rows], "environment": environment()}


def settle_batch_norm(network: Network, images: list[Path]) -> None:
    """Set the running statistics of every batch norm to those of a few images."""
    norms = [module for module in network.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
        module.train()
    pixels = np.stack([cv2.resize(read_image(path), SIZE[::-1]) for path in images])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    preprocessor: Any = network.model.data_preprocessor
    with torch.no_grad():
        network.model._forward((x - preprocessor.mean) / preprocessor.std)  # type: ignore[operator]
    network.model.eval()


def rows_of(results: list[dict[str, Any]]) -> list[Row]:
    """Median engine latency and agreement of each target, and the ratios that are claimed."""
    p50 = {(result["precision"], result["backend"]): value_of(result, "engine_p50") for result in results}
    rows = [Row.model_validate(row) for result in results for row in result["rows"] if row["metric"] in ("engine_p50", "pixel_agreement")]
    torch_eager = p50["fp32", "torch"]
    fp32 = min(time for (precision, backend), time in p50.items() if precision == "fp32" and backend != "torch")
    int8 = min(time for (precision, _), time in p50.items() if precision == "int8")
    runs = next(row.n for row in rows if row.metric == "engine_p50")
    for metric, ratio in (
        ("torch eager / best fp32", torch_eager / fp32),
        ("best fp32 / best int8", fp32 / int8),
        ("torch eager / best int8", torch_eager / int8),
    ):
        rows.append(Row(metric=metric, value=ratio, unit="ratio", n=runs))
    return rows


def rtx_rows(bundle: Path) -> list[Row]:
    """Layers that TensorRT-RTX makes of each graph, for compute capability 8.6; none where it is not installed."""
    if not rtx.installed():
        return []
    builds = {precision: rtx.build(bundle / graph_file(precision), "8.6") for precision in read_manifest(bundle).graphs}
    return [
        Row(metric="TensorRT-RTX layers", value=build.layers, unit="layers", n=1, conditions={"precision": precision, "backend": "8.6"})
        for precision, build in builds.items()
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
