"""Images a second of ``segc validate`` against mmseg's own test loop, its memory, and what the pre- and postprocessing in the graph save.

    python -m benchmarks.validate [IMAGES]

The network is the quickstart one with random weights (speed does not depend on their values). mmseg runs with 0 and with 2 loader
workers; the better counts. Each loop runs in a process of its own, turn by turn: threads of one runtime slow another in the same process.
Memory is the peak of a process of its own, on 100 and on 1000 images (links to the same few). Results: benchmarks/results/validate.json.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
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
IMAGES, SIZES, PIPELINE_RUNS = 101, (100, 1000), 40


def main(images: int = IMAGES) -> None:
    """Measure, print and store."""
    whole = open_dataset(embedded_dataset(), split="val")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _linked(whole, folder / "set", images)
        save_network(load_network(CONFIG, None, random_weights=True), folder / "weights.safetensors")
        export_network(None, folder / "weights.safetensors", folder / "bundle", images=dataset.image_paths)
        found: dict[str, list[float]] = {name: [] for name in (*LOOPS, *PIPELINES)}
        for _ in range(ROUNDS):
            for name, values in found.items():
                values.append(_itself(name, folder, dataset))
        medians = {name: float(np.median(values)) for name, values in found.items()}
        rows = [*_rows(medians, len(dataset)), *_pipeline_rows(medians), *_memory_rows(folder, dataset)]
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "dataset": dataset.spec.name, "environment": environment()})
    for row in rows:
        print(f"{row.metric:60s} {row.value:8.2f} {row.unit}")


def _itself(name: str, folder: Path, dataset: SegmentationSet) -> float:
    """The number that this script prints last when it is asked for one loop or pipeline."""
    command = [sys.executable, "-m", "benchmarks.validate", "--run", name, str(folder), dataset.layout, dataset.split]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def run(name: str, folder: Path, layout: str, split: str) -> float:
    """One loop (images a second) or pipeline (median milliseconds) in this process."""
    torch.set_num_threads(THREADS)
    return {**LOOPS, **PIPELINES}[name](folder, open_dataset(folder / "set", layout, split))


def _mmseg(folder: Path, dataset: SegmentationSet, workers: int) -> float:
    where = {"test_dataloader.dataset.root": str(dataset.root), "test_dataloader.dataset.layout": dataset.layout}
    cfg = prepare(load_config(CONFIG, {**where, "test_dataloader.num_workers": workers}), folder / "mmseg")
    with quietly():
        runner = build_runner(cfg)
    runner.model.load_state_dict(load_network(None, folder / "weights.safetensors").model.state_dict())
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    runner.test()
    return len(dataset) / (time.perf_counter() - start)


def _segc(folder: Path, dataset: SegmentationSet, target: str, backend: str) -> float:
    result = validate(str(folder / target), dataset, backend=backend, threads=THREADS, output=folder / "result.json")
    return value_of(result, "images/s")


def _rows(rates: dict[str, float], count: int) -> list[Row]:
    conditions = {"threads": THREADS, "images": count, "network": CONFIG, "batch": 1, "weights": "random"}
    rows = [Row(metric=name, value=rates[name], unit="images/s", n=ROUNDS, conditions=conditions) for name in LOOPS]
    best = max(rates[name] for name in LOOPS if name.startswith("mmseg"))
    for name in (name for name in LOOPS if name.startswith("segc")):
        rows.append(Row(metric=f"{name} / mmseg", value=rates[name] / best, unit="ratio", n=ROUNDS, conditions=conditions))
    return rows


class _Bare(nn.Module):
    """The network alone: normalised float image -> logits of the network's input size."""

    def __init__(self, deploy: DeployModule) -> None:
        super().__init__()
        self.deploy = deploy

    def forward(self, inputs: Tensor) -> Tensor:
        return self.deploy.encode_decode(inputs)


def _pipeline_rows(times: dict[str, float]) -> list[Row]:
    """One image to its class map, decoded beforehand: mmseg's Python code around a plain export, and the deploy graph."""
    conditions = {"threads": THREADS, "network": CONFIG, "engine": "onnxruntime fp32", "decode": "not counted", "runs": PIPELINE_RUNS}
    around, graph = (times[name] for name in PIPELINES)
    rows = [Row(metric=name, value=times[name], unit="ms", n=ROUNDS, conditions=conditions) for name in PIPELINES]
    return [
        *rows,
        Row(metric="time saved by the deploy graph", value=100 * (1 - graph / around), unit="%", n=ROUNDS, conditions=conditions),
    ]


def _mmseg_pipeline(folder: Path, dataset: SegmentationSet) -> float:
    """Median milliseconds of mmseg's pre- and postprocessing around the bare network in ONNX Runtime."""
    contract = read_manifest(folder / "bundle").contract
    network = load_network(None, folder / "weights.safetensors")
    deploy = DeployModule(network.model, contract).eval()
    image = read_image(next(iter(dataset)).image)
    size = contract.resize.network_size(*image.shape[:2])
    path = folder / "bare.onnx"
    with torch.no_grad(), quietly():
        torch.onnx.export(_Bare(deploy), (torch.zeros(1, 3, *size),), str(path), dynamo=False, input_names=["x"], output_names=["y"])
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _median(lambda: _around(session, network.model, image, size))


def _graph_pipeline(folder: Path, dataset: SegmentationSet) -> float:
    """Median milliseconds of the deploy graph, as ``segc predict`` runs it."""
    image = read_image(next(iter(dataset)).image)
    segmenter = Segmenter(open_runner(f"{folder / 'bundle'}@fp32", "onnxruntime", THREADS))
    return _median(lambda: segmenter.class_map(image))


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


def _median(function: Callable[[], object]) -> float:
    """Median milliseconds, after a warm-up."""
    times = []
    for _ in range(PIPELINE_RUNS + 3):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[3:]))


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


Measured = Callable[[Path, SegmentationSet], float]
LOOPS: dict[str, Measured] = {
    "mmseg test loop, 0 workers": partial(_mmseg, workers=0),
    "mmseg test loop, 2 workers": partial(_mmseg, workers=2),
    "segc validate, torch": partial(_segc, target="weights.safetensors", backend="torch"),
    "segc validate, onnxruntime": partial(_segc, target="bundle@fp32", backend="onnxruntime"),
    "segc validate, openvino": partial(_segc, target="bundle@fp32", backend="openvino"),
}
PIPELINES: dict[str, Measured] = {"mmseg pre/post around a plain export": _mmseg_pipeline, "deploy graph": _graph_pipeline}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(run(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
    else:
        main(*map(int, sys.argv[1:]))
