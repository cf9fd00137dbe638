"""Forward of whole networks at 512x512: torch against ONNX Runtime, and SegMAN-T with our operators against their plain definitions.

    python -m benchmarks.models [NETWORK ...]

Deploy graphs with the classes of their configs and random weights, batch 1, two threads, each target in a process of its own, turn by
turn. SegMAN-T's other form replaces neighbourhood attention by a gather of every window and the scan by a loop over its steps
(``segc.ops.reference``), as a program without CUDA kernels would. Results: benchmarks/results/models.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.latency import settle_batch_norm
from segc.core.files import read_json, write_json
from segc.core.rows import Row, environment, value_of
from segc.data.dataset import open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.exporter import export_network
from segc.models.network import build_model, load_config, load_network, save_network
from segc.ops import reference
from segc.runtime.benchmark import benchmark_many
from segc.runtime.measure import peak_memory

RESULTS = Path(__file__).parent / "results" / "models.json"
SIZE, THREADS, RUNS, IMAGES = (512, 512), 2, 10, 4
SEGMAN = "segc::segman/segman_t_ade20k.py"
NETWORKS = {
    "SegMAN-T": SEGMAN,
    "AFFormer-base": "segc::afformer/afformer_base_ade20k.py",
    "SegFormer-B0": "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "SegFormer-B1": "mmseg::segformer/segformer_mit-b1_8xb2-160k_ade20k-512x512.py",
    "DDRNet-23-slim": "mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "PIDNet-S": "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
}
FORMS = "SegMAN-T operators"
REPEATS = {"ours": 5, "reference": 2}


def main(names: list[str]) -> None:
    """Measure the named networks (all, and the forms of SegMAN-T, when none is named) and store their rows."""
    stored = read_json(RESULTS)["networks"] if RESULTS.exists() else {}
    for name in names or [*NETWORKS, FORMS]:
        stored[name] = [row.model_dump() for row in (forms() if name == FORMS else measure(name))]
        write_json(RESULTS, {"networks": stored, "environment": environment()})
        for row in stored[name]:
            backend, value = row["conditions"].get("backend", ""), f"{row['value']:10.2f} {row['unit']}"
            print(f"{name:18s} {row['metric']:24s} {backend:12s} {value}", flush=True)


def measure(name: str) -> list[Row]:
    """Images a second and peak memory of one network in torch and in ONNX Runtime, and their ratio."""
    data = embedded_dataset()
    images = open_dataset(data, split="val").image_paths[:IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        weights, bundle = Path(folder) / "weights.safetensors", Path(folder) / "bundle"
        network = load_network(NETWORKS[name], None, random_weights=True)
        settle_batch_norm(network, open_dataset(data, split="train").image_paths[:2])
        save_network(network, weights)
        export_network(None, weights, bundle, input_size=SIZE, network_size="input", images=images, verify_images=1)
        targets = [(str(bundle), "onnxruntime"), (str(weights), "torch")]
        results = benchmark_many(targets, threads=THREADS, warmup=2, runs=RUNS, images=images)
    wanted = ("engine_throughput", "memory_peak", "pixel_agreement")
    rows = [Row.model_validate(row) for result in results for row in result["rows"] if row["metric"] in wanted]
    ours, torch_eager = (value_of(result, "engine_throughput") for result in results)
    return [*rows, Row(metric="ONNX Runtime / torch", value=ours / torch_eager, unit="ratio", n=RUNS)]


def forms() -> list[Row]:
    """SegMAN-T with compiled operators and with their plain definitions: images a second, peak memory, difference of the logits."""
    found = {form: _form(form) for form in REPEATS}
    rows = []
    for form, told in found.items():
        conditions = {"backend": form, "threads": THREADS, "size": SIZE, "weights": "random"}
        rows.append(Row(metric="forward", value=1 / told["seconds"], unit="images/s", n=REPEATS[form], conditions=conditions))
        rows.append(Row(metric="memory_peak", value=told["peak_mib"], unit="MiB", n=1, conditions=conditions))
    ours, plain = (np.array(found[form]["logits"]) for form in REPEATS)
    error = float(np.abs(ours - plain).max() / np.abs(plain).max())
    ratio = found["reference"]["seconds"] / found["ours"]["seconds"]
    return [
        *rows,
        Row(metric="compiled / plain", value=ratio, unit="ratio", n=REPEATS["reference"]),
        Row(metric="logit difference", value=error, unit="ratio", n=1, conditions={"of": "the largest logit"}),
    ]


def _form(form: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.models", "--form", form], stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@torch.no_grad()
def run_form(form: str) -> None:
    """In a process of its own: forward SegMAN-T and print the median of its seconds, the peak memory and a few logits."""
    torch.set_num_threads(THREADS)
    model, image = build_model(load_config(SEGMAN)), torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    plain = {
        "segc.models.segman.attention.neighborhood_attention_2d": _gathered,
        "segc.models.segman.layers.cross_selective_scan": reference.cross_selective_scan,
    }
    for name, function in plain.items() if form == "reference" else ():
        mock.patch(name, function).start()
    seconds = []
    for _ in range(REPEATS[form] + 1):
        start = time.perf_counter()
        logits = model(image, mode="tensor")
        seconds.append(time.perf_counter() - start)
    peak = peak_memory() / 2**20
    print(json.dumps({"seconds": float(np.median(seconds[1:])), "peak_mib": peak, "logits": logits[0, :, ::8, ::8].flatten().tolist()}))


def _gathered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kernel_size: int, dilation: int = 1, **options: Any) -> torch.Tensor:
    return reference.neighborhood_attention_2d(q, k, v, (kernel_size, kernel_size), (dilation, dilation), **options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--form"]:
        run_form(sys.argv[2])
    else:
        main(sys.argv[1:])
