"""Post-training quantization compared on one fp32 graph and one set of images: segc, NNCF, ONNX Runtime's quantize_static, ModelOpt.

    python -m benchmarks.compress_ptq [NAME=BUNDLE ...] [--modelopt PYTHON] [--quick]

BUNDLE is a bundle with an fp32 graph of a trained network and its dataset (default: quickstart=demo/bundle, which ``make demo`` makes);
PYTHON one with ModelOpt, which needs an environment of its own. Per graph and backend: mIoU drop with its bootstrap interval, pixel
agreement with fp32, median engine latency as a ratio to fp32 in interleaved rounds. Results: benchmarks/results/compress_ptq.json, and
the tables of docs/quantization.md. ``--quick`` takes few images and stores nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.ptq_graphs import Source, graphs
from benchmarks.ptq_table import FP32, RESULTS, sentences, table, write_tables
from segc.calib.select import choose_images, training_set
from segc.core.errors import CheckFailed, UserError
from segc.core.files import read_json, write_json
from segc.core.rows import Row, environment, value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.runtime.benchmark import benchmark_many
from segc.runtime.bundle import graph_path, is_bundle, read_manifest
from segc.runtime.runner import installed_backends
from segc.validate.evaluate import validate
from segc.validate.source import data_of

DEFAULT = "quickstart=demo/bundle"
THREADS = 2


@dataclass(frozen=True)
class Effort:
    """Images of calibration and validation (None: all), and timed runs."""

    calibration: int
    validation: int | None
    runs: int


FULL, QUICK = Effort(64, None, 30), Effort(4, 6, 5)


def main() -> None:
    """Measure the named bundles and store their rows."""
    options = _arguments()
    effort = QUICK if options.quick else FULL
    for name, bundle in options.bundles:
        start = time.perf_counter()
        found = measure(bundle, effort, options.modelopt)
        found["seconds"] = time.perf_counter() - start
        print("\n".join([f"{name}, {found['seconds']:.0f} s", table(found), *sentences(found)]), flush=True)
        if not options.quick:
            _store(name, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=_named, default=[_named(DEFAULT)], metavar="NAME=BUNDLE")
    parser.add_argument("--modelopt", type=Path, metavar="PYTHON")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def measure(bundle: Path, effort: Effort, modelopt: Path | None) -> dict[str, Any]:
    """{"rows": of every graph on every backend, "failures": of graphs that were not made or not run, "environment"}.

    Raises:
        UserError: no bundle, or its dataset is not here.
    """
    if not is_bundle(bundle):
        raise UserError(f"{bundle} is no bundle.", "make demo, or name a bundle: NAME=BUNDLE")
    manifest = read_manifest(bundle)
    images = choose_images(training_set(bundle), effort.calibration)
    fp32 = graph_path(bundle, manifest, FP32)
    root, layout, split = data_of(str(bundle), None)
    dataset = open_dataset(root, layout, split)
    failures: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        made = _make(Source(onnx.load(fp32), manifest.contract, images, modelopt), Path(folder), failures)
        for backend in installed_backends():
            scored = {name: path for name, path in made.items() if _scores(rows, failures, name, path, fp32, dataset, backend, effort)}
            rows += _latencies({FP32: fp32, **scored}, backend, effort, dataset)
    return {"rows": rows, "failures": failures, "calibration_images": len(images), "environment": environment()}


def _make(source: Source, folder: Path, failures: list[dict[str, str]]) -> dict[str, Path]:
    """Graph -> its file; those that could not be made are told."""
    made = {}
    for index, (name, make) in enumerate(graphs(source).items()):
        try:
            model = make()
        except Exception as error:  # whatever another library raises is its result
            failures.append({"graph": name, "backend": "", "reason": _first_line(error)})
            continue
        made[name] = folder / f"graph{index}.onnx"
        onnx.save(model, made[name])
    return made


def _scores(
    rows: list[dict[str, Any]],
    failures: list[dict[str, str]],
    name: str,
    path: Path,
    fp32: Path,
    dataset: SegmentationSet,
    backend: str,
    effort: Effort,
) -> bool:
    """Add the drop and the agreement of a graph to ``rows``; False where the backend does not run it."""
    try:
        result = validate(
            str(path),
            dataset,
            against=str(fp32),
            backend=backend,
            threads=THREADS,
            limit=effort.validation,
            maps=path.parent / "maps",
        )
    except Exception as error:  # whatever a backend raises at another library's graph is that graph's result
        failures.append({"graph": name, "backend": backend, "reason": _first_line(error)})
        return False
    for row in result["rows"]:
        if row["metric"] in ("drop mIoU", "pixel agreement"):
            rows.append({**row, "conditions": {**row["conditions"], "graph": name, "backend": backend, "threads": THREADS}})
    return True


def _latencies(paths: dict[str, Path], backend: str, effort: Effort, dataset: SegmentationSet) -> list[dict[str, Any]]:
    """Rows ``latency ratio``: median engine latency over that of fp32."""
    results = benchmark_many(
        [(str(path), backend) for path in paths.values()], threads=THREADS, warmup=3, runs=effort.runs, images=dataset.image_paths[:8]
    )
    medians = dict(zip(paths, (value_of(result, "engine_p50") for result in results), strict=True))
    conditions = {"backend": backend, "threads": THREADS, "fp32_ms": medians[FP32]}
    return [
        Row(
            metric="latency ratio", value=found / medians[FP32], unit="ratio", n=effort.runs, conditions={**conditions, "graph": name}
        ).model_dump()
        for name, found in medians.items()
        if name != FP32
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _store(name: str, found: dict[str, Any]) -> None:
    stored = read_json(RESULTS)["networks"] if RESULTS.exists() else {}
    write_json(RESULTS, {"networks": {**stored, name: found}})
    write_tables(read_json(RESULTS)["networks"])


if __name__ == "__main__":
    try:
        main()
    except (UserError, CheckFailed) as error:
        raise SystemExit(str(error)) from None
