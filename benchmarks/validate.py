"""Images a second of ``segc validate`` against mmseg's own test loop, its memory, and what the pre- and postprocessing in the graph save.

    python -m benchmarks.validate [IMAGES]

The network is the quickstart one with random weights (speed does not depend on their values). mmseg runs with 0 and with 2 loader
workers; the better counts. Loops take turns in one process. Memory is the peak of a process of its own, on 100 and on 1000
images (links to the same few). Results: benchmarks/results/validate.json.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from segc.core.files import write_json
from segc.core.images import read_image
from segc.core.rows import Row, environment, value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.exporter import export_network
from segc.models.deploy import DeployModule
from segc.models.network import load_config, load_network, quietly, save_network
from segc.runtime.bundle import read_manifest
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter, resize_image
from segc.train.trainer import build_runner, prepare
from segc.validate.evaluate import validate

RESULTS = Path(__file__).parent / "results" / "validate.json"
CONFIG, THREADS, ROUNDS = "segc::quickstart/quickstart.py", 2, 3
IMAGES, SIZES, PIPELINE_RUNS = 40, (100, 1000), 40


def main(images: int = IMAGES) -> None:
    """Measure, print and store."""
    torch.set_num_threads(THREADS)
    whole = open_dataset(embedded_dataset(), split="val")
    with tempfile.TemporaryDirectory() as folder:
        dataset = _linked(whole, Path(folder) / "set", images)
        loops = _loops(Path(folder), dataset)
        found: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                found[name].append(loop())
        rows = _rows({name: float(np.median(values)) for name, values in found.items()}, len(dataset))
        rows += _pipeline_rows(Path(folder), dataset)
        rows += _memory_rows(Path(folder), dataset)
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "dataset": dataset.spec.name, "environment": environment()})
    for row in rows:
        print(f"{row.metric:60s} {row.value:8.2f} {row.unit}")


def _loops(folder: Path, dataset: SegmentationSet) -> dict[str, Callable[[], float]]:
    """name -> a run over the dataset that returns images a second."""
    weights, bundle = folder / "weights.safetensors", folder / "bundle"
    save_network(load_network(CONFIG, None, random_weights=True), weights)
    export_network(None, weights, bundle, images=dataset.image_paths)
    return {
        "mmseg test loop, 0 workers": lambda: _mmseg(weights, folder, 0, dataset),
        "mmseg test loop, 2 workers": lambda: _mmseg(weights, folder, 2, dataset),
        "segc validate, torch": lambda: _segc(str(weights), dataset, folder, "torch"),
        "segc validate, onnxruntime": lambda: _segc(f"{bundle}@fp32", dataset, folder, "onnxruntime"),
        "segc validate, openvino": lambda: _segc(f"{bundle}@fp32", dataset, folder, "openvino"),
    }


def _mmseg(weights: Path, folder: Path, workers: int, dataset: SegmentationSet) -> float:
    where = {"test_dataloader.dataset.root": str(dataset.root), "test_dataloader.dataset.layout": dataset.layout}
    cfg = prepare(load_config(CONFIG, {**where, "test_dataloader.num_workers": workers}), folder / "mmseg")
    with quietly():
        runner = build_runner(cfg)
    runner.model.load_state_dict(load_network(None, weights).model.state_dict())
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    runner.test()
    return len(dataset) / (time.perf_counter() - start)


def _segc(target: str, dataset: SegmentationSet, folder: Path, backend: str) -> float:
    result = validate(target, dataset, backend=backend, threads=THREADS, output=folder / "result.json")
    return value_of(result, "images/s")


def _rows(rates: dict[str, float], count: int) -> list[Row]:
    conditions = {"threads": THREADS, "images": count, "network": CONFIG, "batch": 1, "weights": "random"}
    rows = [Row(metric=name, value=rate, unit="images/s", n=ROUNDS, conditions=conditions) for name, rate in rates.items()]
    best = max(rate for name, rate in rates.items() if name.startswith("mmseg"))
    for name in (name for name in rates if name.startswith("segc")):
        rows.append(Row(metric=f"{name} / mmseg", value=rates[name] / best, unit="ratio", n=ROUNDS, conditions=conditions))
    return rows


class _Bare(nn.Module):
    """The network alone: normalised float image -> logits of the network's input size."""

    def __init__(self, deploy: DeployModule) -> None:
        super().__init__()
        self.deploy = deploy

    def forward(self, inputs: Tensor) -> Tensor:
        return self.deploy.encode_decode(inputs)


def _pipeline_rows(folder: Path, dataset: SegmentationSet) -> list[Row]:
    """One image to its class map, decoded beforehand, the same engine: mmseg's Python pre- and postprocessing around the bare network, and
    the deploy graph.
    """
    bundle = folder / "bundle"
    contract = read_manifest(bundle).contract
    network = load_network(None, folder / "weights.safetensors")
    deploy = DeployModule(network.model, contract).eval()
    image = read_image(next(iter(dataset)).image)
    size = contract.resize.network_size(*image.shape[:2])
    example = torch.zeros(1, 3, *size)
    path = folder / "bare.onnx"
    with torch.no_grad(), quietly():
        torch.onnx.export(_Bare(deploy), (example,), str(path), dynamo=False, input_names=["x"], output_names=["y"])
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    runner = open_runner(f"{bundle}@fp32", "onnxruntime", THREADS)
    segmenter = Segmenter(runner)
    times = _alternate(lambda: _around(session, network.model, image, size), lambda: segmenter.class_map(image))
    conditions = {
        "threads": THREADS,
        "network": CONFIG,
        "image": list(image.shape[:2]),
        "engine": "onnxruntime fp32",
        "decode": "not counted",
    }
    names = ("mmseg pre/post around the bare network", "deploy graph")
    rows = [
        Row(metric=name, value=time, unit="ms", n=PIPELINE_RUNS, conditions=conditions) for name, time in zip(names, times, strict=True)
    ]
    saved = 100 * (1 - times[1] / times[0])
    return [*rows, Row(metric="time saved by pre/post inside the graph", value=saved, unit="%", n=PIPELINE_RUNS, conditions=conditions)]


@torch.no_grad()
def _around(session: ort.InferenceSession, model: Any, image: np.ndarray[Any, Any], size: tuple[int, int]) -> Tensor:
    """mmseg's test path with the network run by ONNX Runtime."""
    from mmseg.structures import SegDataSample

    resized = torch.from_numpy(np.ascontiguousarray(resize_image(image, size)[..., ::-1].transpose(2, 0, 1)))
    sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": image.shape[:2], "padding_size": (0, 0, 0, 0)})
    data = model.data_preprocessor({"inputs": [resized], "data_samples": [sample]}, False)
    logits = torch.from_numpy(session.run(None, {"x": data["inputs"].numpy()})[0])
    found: Tensor = model.postprocess_result(logits, data["data_samples"])[0].pred_sem_seg.data
    return found


def _alternate(*functions: Callable[[], object]) -> list[float]:
    """Median milliseconds of each, turn by turn, after a warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(PIPELINE_RUNS + 3):
        for function, seconds in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn >= 3:
                seconds.append(1000 * (time.perf_counter() - start))
    return [float(np.median(each)) for each in times]


def _memory_rows(folder: Path, dataset: SegmentationSet) -> list[Row]:
    """Peak resident memory of ``segc validate`` on datasets of several sizes."""
    rows = []
    for count in SIZES:
        root = folder / f"set{count}"
        _linked(dataset, root, count)
        command = ["validate", f"{folder / 'bundle'}@fp32", "--data", str(root), "--layout", dataset.layout, "--threads", str(THREADS)]
        peak = _peak_mib([*command, "--output", str(folder / "memory.json"), "--json"])
        conditions = {"threads": THREADS, "images": count, "network": CONFIG, "backend": "onnxruntime"}
        rows.append(Row(metric=f"peak memory of segc validate, {count} images", value=peak, unit="MiB", n=1, conditions=conditions))
    growth = 100 * (rows[-1].value / rows[0].value - 1)
    return [*rows, Row(metric=f"growth of the peak, {SIZES[0]} to {SIZES[1]} images", value=growth, unit="%", n=1, conditions={})]


def _linked(dataset: SegmentationSet, root: Path, count: int) -> SegmentationSet:
    """A dataset of ``count`` names for the images of another, in its layout."""
    pairs = list(dataset)
    for index in range(count):
        pair = pairs[index % len(pairs)]
        for path in (pair.image, pair.label):
            link = root / path.relative_to(dataset.root).parent / f"{index:05d}_{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    for spec in dataset.root.glob("*.json"):
        (root / spec.name).symlink_to(spec)
    return open_dataset(root, dataset.layout, dataset.split)


def _peak_mib(words: list[str]) -> float:
    """Largest resident memory of a segc command, MiB. (``ru_maxrss`` would count what this process held when it forked.)"""
    process = subprocess.Popen([sys.executable, "-m", "segc.cli.main", *words], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1]) / 1024 if found else 0.0)
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"segc {' '.join(words)} ended with {process.returncode}")
    return peak


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
