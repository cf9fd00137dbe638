"""Whole networks on a GPU: torch eager and compiled, ONNX Runtime's CUDA provider, and the TensorRT that is installed there.

    python -m benchmarks.gpu_models [NETWORK ...] [--weights NETWORK=FILE --data FOLDER] [--rounds N]
    python -m benchmarks.gpu_models SegFormer-B0 --dry-run         # no GPU: 64x128, what runs on the CPU, engines built but not run

At 512x512 and 1024x2048, batch 1, bytes in and class map out in every case. torch runs the same deployed function (its times contain the
copies to the GPU and back); its fp16 is autocast. Frames/s, p50, p99, memory, agreement with fp32; mIoU of the networks whose weights are
given. Without weights they are random, which changes no time. Results: benchmarks/results/gpu_models.json, after every network and size.
Never run on a GPU by us.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_timing import the_gpu
from segc.compress.half import halve_bundle
from segc.core.errors import CheckFailed, UserError
from segc.core.files import read_json, write_json
from segc.core.rows import Row, environment
from segc.data.dataset import open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.engine import flavour as flavours
from segc.export.engine.add import add_engine
from segc.export.engine.settings import EngineSettings
from segc.export.exporter import export_network
from segc.models.contract import contract_from_config
from segc.models.deploy import DeployModule
from segc.models.network import load_network, save_network
from segc.runtime.benchmark import all_targets, benchmark_many
from segc.validate.evaluate import validate

RESULTS = Path(__file__).parent / "results" / "gpu_models.json"
NETWORKS = {
    "SegFormer-B0": "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "AFFormer-base": "segc::afformer/afformer_base_cityscapes.py",
    "SegMAN-T": "segc::segman/segman_t_cityscapes.py",
    "DDRNet-23-slim": "mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
}
Run = Callable[[np.ndarray], np.ndarray]
SIZES = [(512, 512), (1024, 2048)]
DRY_SIZE, DRY_ROUNDS, DRY_GPU = (64, 128), 2, "8.6"
WARMUP = 10
WHOLE = {"model.test_cfg.mode": "whole"}  # SegFormer's config slides windows over the image


def main() -> None:
    """Measure the named networks, all where none is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], metavar="NETWORK")
    parser.add_argument("--weights", action="append", default=[], metavar="NETWORK=FILE")
    parser.add_argument("--data", type=Path, help="labelled set for the mIoU of the networks with weights")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in given.weights)
    device = torch.device("cpu") if given.dry_run else the_gpu()
    stored: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() and not given.dry_run else {}
    for name in given.networks or NETWORKS:
        for size in [DRY_SIZE] if given.dry_run else SIZES:
            rounds = DRY_ROUNDS if given.dry_run else given.rounds
            rows = measure(name, size, device, rounds, weights.get(name), given.data)
            for row in rows:
                print(f"{name:16s} {row.metric:22s} {row.conditions.get('target', ''):30s} {row.value:10.3f} {row.unit}")
            stored[f"{name} {size[0]}x{size[1]}"] = {"rows": [row.model_dump() for row in rows], "environment": told(device)}
            if not given.dry_run:
                write_json(RESULTS, stored)


def told(device: torch.device) -> dict[str, Any]:
    """The environment, with the GPU."""
    return {**environment(), "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none: dry run"}


def measure(name: str, size: tuple[int, int], device: torch.device, rounds: int, weights: str | None, data: Path | None) -> list[Row]:
    """Rows of one network at one size: every target of its bundle, then torch."""
    images = open_dataset(embedded_dataset(), split="val").image_paths[:8]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "weights.safetensors", Path(folder) / "bundle"
        network = load_network(NETWORKS[name], weights, overrides=WHOLE, random_weights=weights is None)
        save_network(network, checkpoint)
        export_network(None, checkpoint, bundle, input_size=size, network_size="input", images=images, verify_images=1)
        halve_bundle(bundle, "fp16", images=images, least_agreement=0.0)
        rows = build_engines(bundle, device)
        targets = all_targets(bundle)
        for result in benchmark_many(targets, warmup=WARMUP, runs=rounds, images=images):
            target = f"{result['precision']} {result['backend']}"
            found = [Row.model_validate(row) for row in result["rows"]]
            rows += [row.model_copy(update={"conditions": {**row.conditions, "target": target, **result["device_state"]}}) for row in found]
        rows += torch_rows(checkpoint, size, device, rounds)
        if weights and data:
            rows += accuracy_rows([(str(target), backend) for target, backend in targets], data)
    return rows


def build_engines(bundle: Path, device: torch.device) -> list[Row]:
    """Build fp32 and fp16 engines with every TensorRT there is; one that refuses is told as a row of zero engines, with its reason."""
    rows = []
    settings = EngineSettings(compute_capability=DRY_GPU if device.type == "cpu" else None)
    for name in [each for each in ("rtx", "11", "10") if flavours.installed(each)]:
        for precision in ("fp32", "fp16"):
            conditions = {"target": f"{precision} {name}"}
            try:
                built = add_engine(bundle, precision, settings, flavour=flavours.find_flavour(name))
                conditions["engine"] = built.engine.file
            except (UserError, CheckFailed) as error:
                conditions["refused"] = str(error)
            rows.append(Row(metric="engines built", value=float("engine" in conditions), unit="engines", n=1, conditions=conditions))
    return rows


def torch_rows(checkpoint: Path, size: tuple[int, int], device: torch.device, rounds: int) -> list[Row]:
    """Eager fp32, eager fp16 and compiled fp16, turn by turn in this process."""
    manner = {"eager fp32": (False, False), "eager fp16": (True, False), "compiled fp16": (True, True)}
    if device.type == "cpu":
        manner = {"eager fp32": (False, False)}
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    runs = {name: prepare(checkpoint, size, device, *how) for name, how in manner.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARMUP + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            if turn >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, found in seconds.items():
        values = [("engine_p50", 1000 * float(np.median(found)), "ms"), ("engine_p99", 1000 * float(np.percentile(found, 99)), "ms")]
        values.append(("engine_throughput", len(found) / sum(found), "images/s"))
        rows += [
            Row(metric=metric, value=value, unit=unit, n=rounds, conditions={"target": f"torch {name}"}) for metric, value, unit in values
        ]
    return rows


def prepare(checkpoint: Path, size: tuple[int, int], device: torch.device, half: bool, compiled: bool) -> Run:
    """The deployed function in torch on a device, bytes in, class map out."""
    network = load_network(None, checkpoint)
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=size, network_size="input")
    module: Any = DeployModule(network.model, contract).eval().to(device)
    module = torch.compile(module) if compiled else module

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=half):
            return np.asarray(module(torch.from_numpy(images).to(device)).cpu())

    return run


def accuracy_rows(targets: list[tuple[str, str | None]], data: Path) -> list[Row]:
    """mIoU of every target on the validation split of a labelled set."""
    dataset = open_dataset(data, split="val")
    rows = []
    for target, backend in targets:
        result = validate(target, dataset, backend=backend, bootstrap=None)
        found = next(Row.model_validate(row) for row in result["rows"] if row["metric"] == "mIoU")
        precision = target.rpartition("@")[2]
        rows.append(found.model_copy(update={"conditions": {**found.conditions, "target": f"{precision} {backend}"}}))
    return rows


if __name__ == "__main__":
    main()
