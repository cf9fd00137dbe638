"""Latency and throughput of targets: the engine alone and the whole pipeline with the share of each step, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import write_json
from segc.core.progress import track
from segc.core.rows import Row, environment, value_of
from segc.runtime.bundle import read_manifest, write_manifest
from segc.runtime.images import Image, read_image
from segc.runtime.runner import Runner, choose, installed_backends, open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.sources import ImageSource, open_source
from segc.runtime.target import Target, content_hash, parse_target

STAGES = ("decode", "preprocess", "engine", "postprocess")
_MIB = 2**20
_NOISE = (512, 512)


class _Timed:
    """A runner that notes when each run began and ended."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.contract, self.backend, self.precision = inner.contract, inner.backend, inner.precision
        self.spans: list[tuple[float, float]] = []

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch and note its span."""
        start = time.perf_counter()
        found = self.inner.run(images)
        self.spans.append((start, time.perf_counter()))
        return found

    def close(self) -> None:
        """Close the runner."""
        self.inner.close()


@dataclass
class _Candidate:
    """One target under measurement: seconds of every step of every run, and the class maps of the first pass over the images."""

    target: Target
    runner: _Timed
    memory: int
    steps: list[tuple[float, ...]] = field(default_factory=list)
    maps: dict[int, NDArray[Any]] = field(default_factory=dict)

    def measure(self, index: int, read: Callable[[], Image]) -> None:
        """Run the pipeline once on image ``index``."""
        self.runner.spans.clear()
        start = time.perf_counter()
        image = read()
        decoded = time.perf_counter()
        found = Segmenter(self.runner).class_map(image)
        end = time.perf_counter()
        engine = sum(stop - begin for begin, stop in self.runner.spans)
        before = self.runner.spans[0][0] - decoded
        self.steps.append((decoded - start, before, engine, end - decoded - before - engine))
        self.maps.setdefault(index, found)


def benchmark(
    target: str | Target,
    backend: str | None = None,
    *,
    threads: int | None = None,
    warmup: int = 5,
    runs: int = 50,
    images: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Measure one target; ``images`` None means noise. The result is stored in a bundle's ``results``. See ``benchmark_many``."""
    return benchmark_many([(target, backend)], threads=threads, warmup=warmup, runs=runs, images=images)[0]


def benchmark_many(
    targets: Sequence[tuple[str | Target, str | None]],
    *,
    threads: int | None = None,
    warmup: int = 5,
    runs: int = 50,
    images: Sequence[Path] | None = None,
) -> list[dict[str, Any]]:
    """Measure (target, backend) pairs turn by turn, one image each, so that a drift of the machine meets all of them alike.

    Args:
        targets: what to measure; the first is the reference of ``pixel_agreement``, and a checkpoint after it runs at its size.
        threads: CPU threads of each; None leaves it to the backends.
        warmup: runs that are not counted, per target; at least one, it loads what is lazy.
        runs: counted runs per target.
        images: real images, used in turn; None measures on noise (``conditions["images"]`` says so).

    Returns:
        A result per pair: {"precision", "backend", "graph_sha256", "rows", "environment"}; bundles keep it as ``results/benchmark.*.json``.

    Raises:
        UserError: a target or an image cannot be opened, or ``runs`` is below 1.
    """
    if runs < 1 or warmup < 0 or (images is not None and not images):
        raise UserError(f"nothing to measure: runs {runs}, warm-up {warmup}, images {images}.", "Use --runs 50 with at least one image.")
    candidates: list[_Candidate] = []
    try:
        for target, backend in targets:
            contract = candidates[0].runner.contract if candidates else None
            candidates.append(_load(target, backend, threads, warmup, images, contract))
        for index in track(range(runs), "measuring", runs):
            for candidate in candidates:
                number, read = _pick(images, index, candidate.runner.contract)
                candidate.measure(number, read)
        results = [_result(candidate, candidates[0], threads, warmup, images) for candidate in candidates]
    finally:
        for candidate in candidates:
            candidate.runner.close()
    for candidate, result in zip(candidates, results, strict=True):
        if candidate.target.kind == "bundle":
            write_json(candidate.target.path / "results" / f"benchmark.{result['precision']}.{result['backend']}.json", result)
    return results


def all_targets(bundle: Path, torch_checkpoint: Path | None = None) -> list[tuple[str | Target, str | None]]:
    """Every precision of a bundle on every installed backend, fp32 first; then a checkpoint in torch, where one is given."""
    precisions = sorted(read_manifest(bundle).graphs, key=lambda name: (name != "fp32", name))
    found: list[tuple[str | Target, str | None]] = [
        (Target(bundle, "bundle", precision), backend) for precision in precisions for backend in installed_backends()
    ]
    return [*found, (str(torch_checkpoint), "torch")] if torch_checkpoint else found


def pick_preferred(results: Sequence[dict[str, Any]], least_agreement: float = 0.99) -> dict[str, str]:
    """{"precision", "backend"} of the fastest graph (median engine latency) that agrees with the reference.

    Raises:
        UserError: none agrees.
    """
    exact = [result for result in results if result["backend"] != "torch" and value_of(result, "pixel_agreement") >= 100 * least_agreement]
    if not exact:
        raise UserError(f"no target agrees with the reference on {least_agreement:.1%} of the pixels.", "Lower --min-agreement.")
    best = min(exact, key=lambda result: value_of(result, "engine_p50"))
    return {"precision": best["precision"], "backend": best["backend"]}


def write_preferred(bundle: Path, preferred: dict[str, str]) -> None:
    """Make ``preferred`` what a bundle runs when no precision or backend is named."""
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"preferred": preferred}))


def _load(
    target: str | Target, backend: str | None, threads: int | None, warmup: int, images: Sequence[Path] | None, contract: Contract | None
) -> _Candidate:
    process = psutil.Process()
    before = process.memory_info().rss
    parsed = parse_target(target) if isinstance(target, str) else target
    if parsed.kind == "bundle":
        precision, backend = choose(read_manifest(parsed.path), parsed.precision, backend)
        parsed = Target(parsed.path, "bundle", precision)
    runner = _Timed(open_runner(parsed, backend, threads, contract))
    candidate = _Candidate(parsed, runner, 0)
    for index in range(max(warmup, 1)):
        candidate.measure(*_pick(images, index, runner.contract))
    candidate.steps.clear()
    candidate.memory = max(process.memory_info().rss - before, 0)
    return candidate


def _pick(images: Sequence[Path] | None, index: int, contract: Contract) -> tuple[int, Callable[[], Image]]:
    if images is None:
        size = contract.static_size or _NOISE
        return 0, lambda: np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    number = index % len(images)
    return number, lambda: read_image(images[number])


def _result(
    candidate: _Candidate, reference: _Candidate, threads: int | None, warmup: int, images: Sequence[Path] | None
) -> dict[str, Any]:
    contract, runner = candidate.runner.contract, candidate.runner
    conditions = {
        "backend": runner.backend,
        "precision": runner.precision,
        "threads": threads or "backend default",
        "warmup": max(warmup, 1),
        "images": "noise" if images is None else len(images),
        "graph_size": [contract.batch, contract.height, contract.width],
        "image_sizes": sorted({found.shape for found in candidate.maps.values()}),
    }
    seconds = np.array(candidate.steps)
    count = len(seconds)
    rows = [*_latency_rows("engine", seconds[:, 2]), *_latency_rows("pipeline", seconds.sum(1))]
    shares = 100 * seconds.sum(0) / seconds.sum()
    rows += [(f"{stage}_share", float(share), "%", count) for stage, share in zip(STAGES, shares, strict=True)]
    common = sorted(candidate.maps.keys() & reference.maps.keys())
    rows.append(("pixel_agreement", 100 * _agreement(candidate, reference, common), "%", len(common)))
    rows.append(("memory_added", candidate.memory / _MIB, "MiB", 1))
    told = [Row(metric=metric, value=number, unit=unit, n=n, conditions=conditions).model_dump() for metric, number, unit, n in rows]
    return {
        "precision": runner.precision,
        "backend": runner.backend,
        "graph_sha256": content_hash(candidate.target, runner.precision),
        "rows": told,
        "environment": environment(),
    }


def _latency_rows(what: str, seconds: NDArray[np.float64]) -> list[tuple[str, float, str, int]]:
    marks = zip((50, 90, 99), np.percentile(seconds, (50, 90, 99)), strict=True)
    rows = [(f"{what}_p{mark}", 1000 * float(found), "ms", len(seconds)) for mark, found in marks]
    return [*rows, (f"{what}_throughput", float(len(seconds) / seconds.sum()), "images/s", len(seconds))]


def _agreement(candidate: _Candidate, reference: _Candidate, common: list[int]) -> float:
    same = sum(int((candidate.maps[index] == reference.maps[index]).sum()) for index in common)
    return same / sum(candidate.maps[index].size for index in common)


def first_images(folder: Path, limit: int) -> list[Path]:
    """The first ``limit`` images of a folder, sorted.

    Raises:
        UserError: the folder has none.
    """
    source = open_source(str(folder))
    if not isinstance(source, ImageSource):
        raise UserError(f"{folder} is not a folder of images.")
    return list(islice(source.paths, limit))
