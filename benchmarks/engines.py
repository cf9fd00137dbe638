"""TensorRT-RTX engines of every network of the catalogue at its crop size, fp16 and int8, for five GPUs, built on the CPU.

    python -m benchmarks.engines [--minutes N] [NETWORK ...]

Weights are random (a build does not depend on their values), ranges of two images. A network is measured in a process of its own; one
that is stored for the installed version is not measured again, and no network is begun after N minutes (default 30). Rows: the layers of
the network and of the engine by what they compute in, seconds, MiB of the engine, peak MiB of the build. Results:
benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from benchmarks.support import run_limited
from benchmarks.support_stages import export
from segc.calib.calibrate import collect
from segc.compress.cast import FP16, cast_graph, keep_in_fp32
from segc.compress.placement import place
from segc.compress.quantize import quantize_graph
from segc.core.errors import CheckFailed, UserError
from segc.core.files import read_json, write_json
from segc.core.rows import Row, environment
from segc.data.dataset import open_dataset
from segc.data.embedded import embedded_dataset
from segc.export.engine import proof, rtx
from segc.export.engine.flavour import find_flavour
from segc.export.engine.layers import parse_layers
from segc.models.catalogue import catalogue
from segc.runtime.bundle import graph_path, read_manifest

RESULTS = Path(__file__).parent / "results" / "engines.json"
TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0")
PRECISIONS = ("fp16", "int8")
IMAGES, SECONDS, MIB, MINUTES = 2, 1800.0, 12288.0, 30.0


def main(names: list[str], minutes: float) -> None:
    """Measure the named networks (all when none is named) that are not stored yet, until the minutes are over."""
    stored = read_json(RESULTS)["networks"] if RESULTS.exists() else {}
    version, start = find_flavour("rtx").version, time.monotonic()
    for name in names or [entry.name for entry in catalogue()]:
        if stored.get(name, {}).get("version") == version:
            continue
        if time.monotonic() - start > 60 * minutes:
            print(f"{minutes:g} minutes are over; the same command goes on with {name}")
            return
        told = run_limited([sys.executable, "-m", "benchmarks.engines", "--measure", name], SECONDS, MIB)
        stored[name] = {"version": version, **told}
        write_json(RESULTS, {"networks": stored, "environment": environment()})
        print(f"{name:22s} {told['seconds']:7.1f} s {told.get('reason') or told['refused'] or 'all built'}", flush=True)


def measure(name: str) -> dict[str, Any]:
    """{"rows", "refused": sentences} of one network."""
    entry = next(entry for entry in catalogue() if entry.name == name)
    rows: list[Row] = []
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        detail = export(entry, Path(folder))["detail"]
        for precision, model in graphs(Path(folder) / "bundle").items():
            path = Path(folder) / f"{precision}.onnx"
            onnx.save(model, path)
            for target in TARGETS:
                conditions = {"precision": precision, "compute_capability": target, "size": detail}
                try:
                    rows += build(path, target, conditions)
                except (CheckFailed, UserError) as error:
                    refused.append(f"{precision} {target}: {error}")
    return {"rows": [row.model_dump() for row in rows], "refused": refused}


def graphs(bundle: Path) -> dict[str, ModelProto]:
    """The fp16 and the int8 graph of a bundle's fp32 graph, not compared with it."""
    manifest = read_manifest(bundle)
    model = onnx.load(graph_path(bundle, manifest, "fp32"))
    ranges = {name: found.amax for name, found in collect(model, manifest.contract, _images()).items()}
    half = cast_graph(model, FP16, keep_in_fp32(model, FP16, ranges))
    return dict(zip(PRECISIONS, (half, quantize_graph(model, ranges, place(model))), strict=True))


def build(path: Path, target: str, conditions: dict[str, Any]) -> list[Row]:
    """Build one engine and say what it took and what it is made of."""
    done = rtx.build(path, target, timeout=600)
    found = proof.summary(parse_layers(done.layers_text))
    values = [("network_layers", done.layers, "layers"), ("build", done.seconds, "s"), ("engine", done.engine_bytes / 2**20, "MiB")]
    values.append(("build_memory_peak", done.peak_mib, "MiB"))
    own = [Row(metric=metric, value=value, unit=unit, n=1, conditions=conditions) for metric, value, unit in values]
    return [*own, *proof.rows(found, conditions)]


def _images() -> list[Path]:
    return open_dataset(embedded_dataset(), split="val").image_paths[:IMAGES]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
    else:
        main(given.networks, given.minutes)
