"""Images a second of ``segc validate`` against mmseg's own test loop: same torch network, weights, images and threads.

    python -m benchmarks.validate

The network is the quickstart one with random weights (speed does not depend on their values). mmseg runs with 0 and with 2 loader
workers; the better counts. Loops take turns in one process. Results: benchmarks/results/validate.json.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from segc.core.files import write_json
from segc.core.rows import Row, environment, value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.exporter import export_network
from segc.models.network import load_config, load_network, quietly, save_network
from segc.train.trainer import build_runner, prepare
from segc.validate.evaluate import validate

RESULTS = Path(__file__).parent / "results" / "validate.json"
CONFIG, THREADS, ROUNDS = "segc::quickstart/quickstart.py", 2, 3


def main() -> None:
    """Measure, print and store."""
    torch.set_num_threads(THREADS)
    dataset = open_dataset(embedded_dataset(), split="val")
    with tempfile.TemporaryDirectory() as folder:
        loops = _loops(Path(folder), dataset)
        found: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                found[name].append(loop())
    rates = {name: float(np.median(values)) for name, values in found.items()}
    rows = _rows(rates, len(dataset))
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "dataset": dataset.spec.name, "environment": environment()})
    for row in rows:
        print(f"{row.metric:40s} {row.value:8.2f} {row.unit}")


def _loops(folder: Path, dataset: SegmentationSet) -> dict[str, Callable[[], float]]:
    """name -> a run over the dataset that returns images a second."""
    weights, bundle = folder / "weights.safetensors", folder / "bundle"
    save_network(load_network(CONFIG, None, random_weights=True), weights)
    export_network(None, weights, bundle, images=dataset.image_paths)
    return {
        "mmseg test loop, 0 workers": lambda: _mmseg(weights, folder, 0, len(dataset)),
        "mmseg test loop, 2 workers": lambda: _mmseg(weights, folder, 2, len(dataset)),
        "segc validate, torch": lambda: _segc(str(weights), dataset, folder, "torch"),
        "segc validate, onnxruntime": lambda: _segc(f"{bundle}@fp32", dataset, folder, "onnxruntime"),
        "segc validate, openvino": lambda: _segc(f"{bundle}@fp32", dataset, folder, "openvino"),
    }


def _mmseg(weights: Path, folder: Path, workers: int, count: int) -> float:
    cfg = prepare(load_config(CONFIG, {"test_dataloader.num_workers": workers}), folder / "mmseg")
    with quietly():
        runner = build_runner(cfg)
    runner.model.load_state_dict(load_network(None, weights).model.state_dict())
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    runner.test()
    return count / (time.perf_counter() - start)


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


if __name__ == "__main__":
    main()
