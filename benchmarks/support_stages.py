"""The stages a network of the catalogue passes through, one a process: ``python -m benchmarks.support_stages NETWORK STAGE FOLDER``.

The last line on stdout is a JSON object: {"agreement", "detail"} where the stage passed, {"reason"} where it did not. Weights are random,
with batch-norm statistics of four images so that activations have sane ranges. Images are real (CamVid) where they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch

from benchmarks.latency import settle_batch_norm
from segc.calib.calibrate import calibrate
from segc.calib.table import TABLE, read_table
from segc.compress.placement import place
from segc.compress.quantize import agreement, quantize_graph
from segc.core.errors import CheckFailed, UserError
from segc.core.images import read_image
from segc.data.dataset import SegmentationSet, open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.engine import rtx
from segc.export.exporter import export_network
from segc.models.catalogue import Entry, catalogue
from segc.models.network import load_network, quietly, save_network
from segc.runtime.bundle import graph_file
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.train.trainer import full_precision

IMAGES, CALIBRATION_IMAGES, TRAINING_SIZE = 2, 8, (256, 256)
LEAST_AGREEMENT = 0.999
_WEIGHTS, _BUNDLE, _INT8 = "weights.safetensors", "bundle", "model.int8.onnx"

Told = dict[str, Any]


def train(entry: Entry, folder: Path) -> Told:
    """One step of the config's optimizer, without mixed precision, on two labelled images; the loss and every gradient must be finite."""
    network = load_network(_config(entry), None, random_weights=True)
    model = network.model.train()
    full_precision(network.cfg.optim_wrapper)
    with quietly():
        from mmengine.optim import build_optim_wrapper

        optimizer = build_optim_wrapper(model, network.cfg.optim_wrapper)
    batch = _batch(open_dataset(embedded_dataset(), split="train"), len(network.classes))
    loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))  # type: ignore[operator]
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not (torch.isfinite(loss) and gradients and all(torch.isfinite(gradient).all() for gradient in gradients)):
        raise CheckFailed(f"the loss is {float(loss):g}, or a gradient is not finite")
    optimizer.step()
    return {"detail": f"one step of {type(optimizer.optimizer).__name__}, loss {float(loss):.2f}"}


def export(entry: Entry, folder: Path) -> Told:
    """The verified fp32 graph at the config's size."""
    network = load_network(_config(entry), None, random_weights=True)
    data = embedded_dataset()
    settle_batch_norm(network, open_dataset(data, split="train").image_paths[:4])
    save_network(network, folder / _WEIGHTS)
    manifest = export_network(None, folder / _WEIGHTS, folder / _BUNDLE, images=_images(), verify_images=IMAGES)
    contract = manifest.contract
    return {"agreement": manifest.graphs["fp32"].parity["pixel_agreement"], "detail": f"{contract.height}x{contract.width}"}


def onnxruntime_fp32(entry: Entry, folder: Path) -> Told:
    """Class maps of the graph in ONNX Runtime against torch."""
    graph = open_runner(str(folder / _BUNDLE), "onnxruntime")
    network = open_runner(str(folder / _WEIGHTS), "torch", contract=graph.contract)
    same = [np.mean(Segmenter(graph).class_map(image) == Segmenter(network).class_map(image)) for image in map(read_image, _images())]
    if np.mean(same) < LEAST_AGREEMENT:
        raise CheckFailed(f"the class map of torch on {100 * np.mean(same):.2f} % of the pixels only")
    return {"agreement": float(np.mean(same))}


def onnxruntime_int8(entry: Entry, folder: Path) -> Told:
    """Class maps of the int8 graph in ONNX Runtime against those of fp32."""
    return _int8(folder, "onnxruntime")


def openvino_int8(entry: Entry, folder: Path) -> Told:
    """Class maps of the int8 graph in OpenVINO against those of fp32."""
    return _int8(folder, "openvino")


def tensorrt_rtx(entry: Entry, folder: Path) -> Told:
    """Engines of the fp32 and the int8 graph for compute capability 8.6; the int8 one where there is one."""
    layers = {}
    for precision, path in (("fp32", folder / _BUNDLE / graph_file("fp32")), ("int8", folder / _INT8)):
        if path.exists():
            layers[precision] = rtx.build(path, "8.6", timeout=1000).layers
    return {"detail": ", ".join(f"{precision} {count} layers" for precision, count in layers.items())}


STAGES: dict[str, Callable[[Entry, Path], Told]] = {
    "train": train,
    "export": export,
    "ORT fp32": onnxruntime_fp32,
    "ORT int8": onnxruntime_int8,
    "OpenVINO int8": openvino_int8,
    "TensorRT-RTX": tensorrt_rtx,
}


def _config(entry: Entry) -> str:
    return next(iter(entry.configs.values()))


def _images() -> list[Path]:
    paths = open_dataset(embedded_dataset(), split="val").image_paths
    return [paths[0], paths[len(paths) // 2]]


def _batch(data: SegmentationSet, classes: int) -> Told:
    """Two images as mmseg's loader gives them; their labels count modulo the network's classes."""
    with quietly():
        from mmseg.datasets.transforms import GenerateEdge, PackSegInputs
    packed = []
    for pair in list(data)[:2]:
        label = cv2.resize(data.read_label(pair), TRAINING_SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        label = np.where(label == 255, 255, label % classes).astype(np.uint8)
        image = cv2.resize(read_image(pair.image), TRAINING_SIZE[::-1])[..., ::-1].copy()
        found = GenerateEdge(edge_width=4)({"img": image, "gt_seg_map": label, "seg_fields": ["gt_seg_map"], "img_shape": TRAINING_SIZE})
        packed.append(PackSegInputs()(found))
    return {key: [item[key] for item in packed] for key in ("inputs", "data_samples")}


def _int8(folder: Path, backend: str) -> Told:
    fp32, int8 = folder / _BUNDLE / graph_file("fp32"), folder / _INT8
    if not int8.exists():
        if not (folder / _BUNDLE / TABLE).exists():
            training = open_dataset(embedded_dataset(), split="train").image_paths
            calibrate(folder / _BUNDLE, training, count=CALIBRATION_IMAGES)
        model = onnx.load(fp32)
        onnx.save(quantize_graph(model, read_table(folder / _BUNDLE / TABLE).ranges, place(model)), int8)
    return {"agreement": agreement(fp32, int8, _images(), backend)}


def main(name: str, stage: str, folder: str) -> None:
    """Run one stage and tell the outcome."""
    entry = next(entry for entry in catalogue() if entry.name == name)
    try:
        told = STAGES[stage](entry, Path(folder))
    except (UserError, CheckFailed) as error:
        told = {"reason": getattr(error, "message", str(error))}
    except Exception as error:  # what a library raises is the outcome too
        told = {"reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
