"""One target under measurement, in a process of its own: ``python -m segc.runtime.measure``, started by ``segc.runtime.benchmark``.

Two runtimes in one process slow each other down: their threads spin while the other works, and thread pools are shared (OpenVINO's int8
SegFormer-B0 took 60 ms beside another compiled graph, 37 ms alone). Requests and answers are one JSON object a line on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import CheckFailed, UserError
from segc.runtime.images import Image, read_image
from segc.runtime.runner import Runner, open_runner
from segc.runtime.segmenter import Segmenter

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


class _Candidate:
    """A loaded target, and its class maps of the images it met."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        contract = Contract.model_validate(request["contract"]) if request["contract"] else None
        self.runner = _Timed(open_runner(request["target"], request["backend"], request["threads"], contract))
        self.images = None if request["images"] is None else [Path(path) for path in request["images"]]
        self.maps: dict[int, NDArray[Any]] = {}

    def measure(self, index: int) -> tuple[float, float, float, float]:
        """Run the pipeline once; seconds of decoding, preprocessing, engine and postprocessing."""
        number, read = self._pick(index)
        self.runner.spans.clear()
        start = time.perf_counter()
        image = read()
        decoded = time.perf_counter()
        found = Segmenter(self.runner).class_map(image)
        end = time.perf_counter()
        engine = sum(stop - begin for begin, stop in self.runner.spans)
        before = self.runner.spans[0][0] - decoded
        self.maps.setdefault(number, found)
        return decoded - start, before, engine, end - decoded - before - engine

    def _pick(self, index: int) -> tuple[int, Callable[[], Image]]:
        if self.images is None:
            size = self.runner.contract.static_size or _NOISE
            return 0, lambda: np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        number, images = index % len(self.images), self.images
        return number, lambda: read_image(images[number])


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Load what the first request names, measure what the following ask for, end at an empty line or the end of the stream."""
    try:
        candidate, told = _load(json.loads(requests.readline()))
    except (UserError, CheckFailed) as error:
        kind = "user" if isinstance(error, UserError) else "check"
        _answer(answers, {"error": getattr(error, "message", str(error)), "fix": getattr(error, "fix", ""), "kind": kind})
        return
    _answer(answers, told)
    for line in requests:
        request = json.loads(line)
        if "maps" in request:
            maps: dict[str, Any] = {str(number): found for number, found in candidate.maps.items()}
            np.savez(request["maps"], **maps)
        _answer(answers, {"seconds": candidate.measure(request["index"])} if "index" in request else {"peak": peak_memory()})
    candidate.runner.close()


def _load(request: Mapping[str, Any]) -> tuple[_Candidate, dict[str, Any]]:
    process = psutil.Process()
    before = process.memory_info().rss
    candidate = _Candidate(request)
    for index in range(max(request["warmup"], 1)):
        candidate.measure(index)
    runner = candidate.runner
    memory = max(process.memory_info().rss - before, 0)
    contract = runner.contract.model_dump(mode="json")
    return candidate, {"contract": contract, "backend": runner.backend, "precision": runner.precision, "memory": memory}


def peak_memory() -> int:
    """Most bytes this process ever had in memory; getrusage would count what its parent had when it started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def _answer(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _main() -> None:
    """Keep stdout for the answers alone: what libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
