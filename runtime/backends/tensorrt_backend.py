"""Run a TensorRT engine (10, 11 or RTX), torch-free: bytes in, class map out, one CUDA graph an image."""

from __future__ import annotations

import importlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.runtime.backends.tensorrt_lane import Lane, Ports
from segc.runtime.bundle import Engine, Manifest, build_command, engine_path
from segc.runtime.cuda import Cuda
from segc.runtime.engines import pick_engine, this_machine
from segc.runtime.runner import BACKENDS, check_images


class TensorRtRunner:
    """An engine of a bundle; see ``segc.runtime.runner.Runner``.

    Args:
        bundle: its folder.
        manifest: of the bundle; its contract is the engine's.
        precision: of the engine.
        backend: ``tensorrt`` (10 and 11) or ``tensorrt_rtx``.
        lanes: images that are worked on at once in ``run_all``; 2 overlap copies and computing, each more takes GPU memory.
        graphs: capture CUDA graphs.
        cuda, library: given in tests.

    Raises:
        UserError: no GPU, a driver that is too old, no engine that fits this machine, a damaged engine, too little GPU memory.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        precision: str,
        *,
        backend: str = "tensorrt",
        lanes: int = 2,
        graphs: bool = True,
        cuda: Cuda | None = None,
        library: Any = None,
    ) -> None:
        library = library or importlib.import_module(BACKENDS[backend].package)
        self.cuda = cuda or Cuda()
        machine = this_machine(backend, str(library.__version__), self.cuda)
        self.entry = pick_engine(bundle, manifest, precision, backend, machine)
        self.contract, self.backend, self.precision = manifest.contract, backend, precision
        self._library, self._graphs, self._wanted = library, graphs, lanes
        self._log = _log(library)
        self._runtime = library.Runtime(self._log)
        self.engine = _deserialize(self._runtime, engine_path(bundle, self.entry), self.entry, self._log, bundle)
        self._ports = _ports(self.engine, library, self.contract, self.entry.file)
        self._lanes = [self._lane()]

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch: uint8 (N, H, W, 3) -> the contract's output."""
        self._check(images)
        self._lanes[0].submit(images)
        return self._lanes[0].result()

    def run_all(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[Any]]:
        """Run batches, in order, so that the copies of one overlap with the computing of another."""
        while len(self._lanes) < self._wanted:
            self._lanes.append(self._lane())
        busy: deque[Lane] = deque()
        free = deque(self._lanes)
        try:
            for images in batches:
                self._check(images)
                if not free:
                    free.append(busy.popleft())
                    yield free[0].result()
                free[0].submit(images)
                busy.append(free.popleft())
            while busy:
                yield busy.popleft().result()
        finally:
            for lane in busy:
                lane.result()

    @property
    def captured(self) -> bool:
        """True when images of the last shape run as a CUDA graph; not before the first run, nor where TensorRT cannot be captured."""
        return self._lanes[0].captured

    def profile_layers(self, images: NDArray[np.uint8], runs: int = 10) -> list[tuple[str, float]]:
        """(layer, milliseconds a run) in the engine's order, on a lane of its own without a graph; the sum is above an unprofiled run."""
        lane = Lane(self.engine, self._ports, self.cuda, self.entry.profile.max, self._log, graphs=False)
        times = _layer_times(self._library)
        try:
            lane.submit(images)
            lane.result()
            lane.context.profiler = times
            for _ in range(runs):
                lane.submit(images)
                lane.result()
        finally:
            lane.close()
        return [(name, total / runs) for name, total in times.totals.items()]

    def close(self) -> None:
        """Free the lanes, then the engine."""
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()
        del self.engine, self._runtime

    def _lane(self) -> Lane:
        return Lane(self.engine, self._ports, self.cuda, self.entry.profile.max, self._log, self._graphs)

    def _check(self, images: NDArray[np.uint8]) -> None:
        check_images(images, self.contract)
        shape, profile = (images.shape[0], images.shape[1], images.shape[2]), self.entry.profile
        if not profile.contains(shape):
            raise UserError(
                f"images of (batch, height, width) {shape} are outside the engine's profile {profile.min} to {profile.max}.",
                "Build it again with a profile that contains them.",
            )


def open_rtx(bundle: Path, manifest: Manifest, precision: str) -> TensorRtRunner:
    """An engine of TensorRT-RTX; see ``TensorRtRunner``."""
    return TensorRtRunner(bundle, manifest, precision, backend="tensorrt_rtx")


def _deserialize(runtime: Any, path: Path, entry: Engine, log: Any, bundle: Path) -> Any:
    build = f"Build it again: {build_command(bundle, entry.precision, entry.flavour == 'rtx')}"
    if entry.plugins and not entry.plugins_embedded:
        raise UserError(f"{entry.file} needs the plugin library {', '.join(entry.plugins)}, which does not travel with it.", build)
    # The plugins, and the runtime of its own version that such an engine carries.
    runtime.engine_host_code_allowed = bool(entry.plugins) or entry.version_compatible
    if entry.dla_core is not None:
        runtime.DLA_core = entry.dla_core
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UserError(f"TensorRT cannot load {path}: {log.error or 'it gives no reason.'}", build)
    return engine


def _ports(engine: Any, library: Any, contract: Contract, file: str) -> Ports:
    """The engine's input and output, checked against the contract."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if len(names) != 2:
        raise UserError(f"{file} has {len(names)} inputs and outputs ({', '.join(names)}); a deploy graph's engine has one of each.")
    names.sort(key=lambda name: bool(engine.get_tensor_mode(name) != library.TensorIOMode.INPUT))
    found = [np.dtype(library.nptype(engine.get_tensor_dtype(name))) for name in names]
    wanted = [np.dtype(np.uint8), contract.class_dtype if contract.output == "argmax" else np.dtype(np.float32)]
    if found != wanted:
        raise UserError(f"{file} takes {found[0]} and gives {found[1]}; bundle.json says {wanted[0]} and {wanted[1]}.", "Build it again.")
    return Ports(names[0], names[1], found[1])


def _log(library: Any) -> Any:
    """A TensorRT logger that keeps the first error, which is the cause of those after it, and prints nothing."""

    class Log(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR) and not self.error:
                self.error = message.splitlines()[0]

    return Log()


def _layer_times(library: Any) -> Any:
    """A TensorRT profiler that sums the milliseconds of each layer."""

    class Times(library.IProfiler):
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.totals: Counter[str] = Counter()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.totals[layer_name] += ms  # type: ignore[assignment]

    return Times()
