"""Latency and throughput of targets: the engine alone and the whole pipeline with the share of each step, in interleaved rounds."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import CheckFailed, UserError
from segc.core.files import write_json
from segc.core.progress import track
from segc.core.rows import Row, environment, value_of
from segc.runtime.bundle import read_manifest, result_file, write_manifest
from segc.runtime.engines import runnable
from segc.runtime.monitor import Monitor, device_state, gpu_memory
from segc.runtime.readings import refuse_other_state
from segc.runtime.runner import backends_for, choose, installed_backends
from segc.runtime.sources import ImageSource, open_source
from segc.runtime.target import Target, content_hash, parse_target

STAGES = ("decode", "preprocess", "engine", "postprocess")
_MIB = 2**20
# Threads of the runtime that had the last turn spin for some milliseconds.
_REST_S = 0.02
_TURN = 5


class _Worker:
    """A target in a process of its own (see ``segc.runtime.measure``): what it told at the start, and the seconds of every run.

    Raises:
        UserError: the target cannot be opened, or its process ended.
        CheckFailed: as the target's backend raises it.
    """

    def __init__(self, target: Target, request: Mapping[str, Any]) -> None:
        self.target = target
        self.steps: list[tuple[float, ...]] = []
        self.spans: list[tuple[float, float]] = []
        self.gpu_memory: float | None = None
        self.maps: dict[int, NDArray[Any]] = {}
        self.peak = 0
        # In a session of its own: ^C is the parent's to handle, which ends the process.
        command = [sys.executable, "-m", "segc.runtime.measure"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            told = self._ask({**request, "target": str(target)})
        except BaseException:
            self.close()
            raise
        self.contract = Contract.model_validate(told["contract"])
        self.backend, self.precision, self.memory = str(told["backend"]), str(told["precision"]), int(told["memory"])

    def take_turn(self, indices: Sequence[int]) -> None:
        """Run the pipeline on these images, after a run that does not count: it brings back what the others drove from the caches."""
        time.sleep(_REST_S)
        self._ask({"index": indices[0]})
        start = time.perf_counter()
        self.steps += [tuple(self._ask({"index": index})["seconds"]) for index in indices]
        self.spans.append((start, time.perf_counter()))

    def fetch_maps(self) -> None:
        """Take over the class maps of the images it met, its peak memory in bytes, and its GPU memory in MiB."""
        self.gpu_memory = gpu_memory(self._process.pid)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "maps.npz"
            self.peak = int(self._ask({"maps": str(path)})["peak"])
            with np.load(path) as stored:
                self.maps = {int(number): stored[number] for number in stored.files}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"the process that measures {self.target} ended (code {self._process.wait()}); see above.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CheckFailed(answer["error"]) if answer["kind"] == "check" else UserError(answer["error"], answer["fix"])
        return answer


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
    """Measure (target, backend) pairs turn by turn, a few images each, so that a drift of the machine meets all of them alike.

    Each has a process of its own, and only one works at a time.

    Args:
        targets: what to measure; the first is the reference of ``pixel_agreement``, and a checkpoint after it runs at its size.
        threads: CPU threads of each; None leaves it to the backends.
        warmup: runs that are not counted, per target; at least one, it loads what is lazy.
        runs: counted runs per target.
        images: real images, used in turn; None measures on noise (``conditions["images"]`` says so).

    Returns:
        A result per pair: {"precision", "backend", "graph_sha256", "rows", "environment", "device_state"};
        bundles keep it as ``results/benchmark.*.json``.

    Raises:
        UserError: a target or an image cannot be opened, ``runs`` is below 1, or the GPU's state changed meanwhile.
    """
    if runs < 1 or warmup < 0 or (images is not None and not images):
        raise UserError(f"nothing to measure: runs {runs}, warm-up {warmup}, images {images}.", "Use --runs 50 with at least one image.")
    request = {"threads": threads, "warmup": warmup, "images": None if images is None else [str(path) for path in images]}
    workers: list[_Worker] = []
    state = device_state()
    try:
        for target, backend in targets:
            contract = workers[0].contract.model_dump(mode="json") if workers else None
            parsed, chosen = _resolve(target, backend)
            workers.append(_Worker(parsed, {**request, "backend": chosen, "contract": contract}))
        with Monitor() as monitor:
            for first in track(range(0, runs, _TURN), "measuring", -(-runs // _TURN)):
                for worker in workers:
                    worker.take_turn(range(first, min(first + _TURN, runs)))
        for worker in workers:
            worker.fetch_maps()
        refuse_other_state([{"device_state": state}, {"device_state": device_state()}])
        results = [{**_result(worker, workers[0], monitor, threads, warmup, images), "device_state": state} for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    for worker, result in zip(workers, results, strict=True):
        if worker.target.kind == "bundle":
            write_json(result_file(worker.target.path, "benchmark", result["precision"], result["backend"]), result)
    return results


def all_targets(bundle: Path, torch_checkpoint: Path | None = None) -> list[tuple[str | Target, str | None]]:
    """Every precision of a bundle on every backend that works here, fp32 first; then a checkpoint in torch, where one is given."""
    manifest = read_manifest(bundle)
    pairs = [(precision, backend) for precision in manifest.graphs for backend in backends_for(precision)]
    pairs += [(precision, backend) for backend in installed_backends("engine") for precision in runnable(manifest, backend)]
    pairs.sort(key=lambda pair: (pair[0] != "fp32", pair[0]))
    found: list[tuple[str | Target, str | None]] = [(Target(bundle, "bundle", precision), backend) for precision, backend in pairs]
    return [*found, (str(torch_checkpoint), "torch")] if torch_checkpoint else found


def pick_preferred(results: Sequence[dict[str, Any]], least_agreement: float = 0.99) -> dict[str, str]:
    """{"precision", "backend"} of the fastest graph (median engine latency) that agrees with the reference.

    Raises:
        UserError: none agrees, or they were measured in different states of a GPU.
    """
    refuse_other_state(results)
    exact = [result for result in results if result["backend"] != "torch" and value_of(result, "pixel_agreement") >= 100 * least_agreement]
    if not exact:
        raise UserError(f"no target agrees with the reference on {least_agreement:.1%} of the pixels.", "Lower --min-agreement.")
    best = min(exact, key=lambda result: value_of(result, "engine_p50"))
    return {"precision": best["precision"], "backend": best["backend"]}


def write_preferred(bundle: Path, preferred: dict[str, str]) -> None:
    """Make ``preferred`` what a bundle runs when no precision or backend is named."""
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"preferred": preferred}))


def _resolve(target: str | Target, backend: str | None) -> tuple[Target, str | None]:
    """The target with the precision, and the backend, that a bundle would choose."""
    parsed = parse_target(target) if isinstance(target, str) else target
    if parsed.kind != "bundle":
        return parsed, backend
    precision, backend = choose(read_manifest(parsed.path), parsed.precision, backend)
    return Target(parsed.path, "bundle", precision), backend


def _result(
    worker: _Worker, reference: _Worker, monitor: Monitor, threads: int | None, warmup: int, images: Sequence[Path] | None
) -> dict[str, Any]:
    contract = worker.contract
    conditions = {
        "backend": worker.backend,
        "precision": worker.precision,
        "threads": threads or "backend default",
        "warmup": max(warmup, 1),
        "images": "noise" if images is None else len(images),
        "graph_size": [contract.batch, contract.height, contract.width],
        "image_sizes": sorted({found.shape for found in worker.maps.values()}),
    }
    seconds = np.array(worker.steps)
    count = len(seconds)
    rows = [*_latency_rows("engine", seconds[:, 2]), *_latency_rows("pipeline", seconds.sum(1))]
    shares = 100 * seconds.sum(0) / seconds.sum()
    rows += [(f"{stage}_share", float(share), "%", count) for stage, share in zip(STAGES, shares, strict=True)]
    common = sorted(worker.maps.keys() & reference.maps.keys())
    rows.append(("pixel_agreement", 100 * _agreement(worker, reference, common), "%", len(common)))
    rows += [("memory_added", worker.memory / _MIB, "MiB", 1), ("memory_peak", worker.peak / _MIB, "MiB", 1)]
    rows += [("gpu_memory", worker.gpu_memory, "MiB", 1)] if worker.gpu_memory is not None else []
    rows += monitor.rows(worker.spans, count)
    told = [Row(metric=metric, value=number, unit=unit, n=n, conditions=conditions).model_dump() for metric, number, unit, n in rows]
    return {
        "precision": worker.precision,
        "backend": worker.backend,
        "graph_sha256": content_hash(worker.target, worker.precision),
        "rows": told,
        "environment": environment(),
    }


def _latency_rows(what: str, seconds: NDArray[np.float64]) -> list[tuple[str, float, str, int]]:
    marks = zip((50, 90, 99), np.percentile(seconds, (50, 90, 99)), strict=True)
    rows = [(f"{what}_p{mark}", 1000 * float(found), "ms", len(seconds)) for mark, found in marks]
    return [*rows, (f"{what}_throughput", float(len(seconds) / seconds.sum()), "images/s", len(seconds))]


def _agreement(worker: _Worker, reference: _Worker, common: list[int]) -> float:
    same = sum(int((worker.maps[index] == reference.maps[index]).sum()) for index in common)
    return same / sum(worker.maps[index].size for index in common)


def first_images(folder: Path, limit: int) -> list[Path]:
    """The first ``limit`` images of a folder, sorted.

    Raises:
        UserError: the folder has none.
    """
    source = open_source(str(folder))
    if not isinstance(source, ImageSource):
        raise UserError(f"{folder} is not a folder of images.")
    return list(islice(source.paths, limit))
