"""The build itself, in a process of its own: ``python -m segc.export.engine.worker JOB.json``.

TensorRT can end its whole process (its parser does at some nodes), and a process can be ended when the user stops a build. It writes
JSON lines on stdout: ``{"phase": ...}`` and ``{"step": ...}`` while it builds, ``{"done": ...}`` at the end.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Report = Callable[[dict[str, Any]], None]

_LAYERS = "LayerType:"
_MIB = 1 << 20
_PR_SET_PDEATHSIG = 1
# A phase of a large network has tens of thousands of steps.
_TOLD_STEPS = 100


@dataclass
class Job:
    """What to build: paths, and the fields of ``EngineSettings`` that concern the builder.

    profile: {"min", "opt", "max"} -> shape of the input, None for a static graph. plugins: libraries to load and embed.
    calibration_cache: file of a legacy int8 cache (implicit int8); timing_cache: file to read and write.
    """

    module: str
    graph: str
    engine: str
    settings: dict[str, Any]
    profile: dict[str, list[int]] | None = None
    plugins: list[str] = field(default_factory=list)
    calibration_cache: str | None = None
    timing_cache: str | None = None


@dataclass
class Done:
    """What came of it: ``layers_text`` is the inspector's JSON, or the lines of the builder's log where the engine cannot be loaded."""

    layers: int = 0
    seconds: float = 0.0
    engine_bytes: int = 0
    peak_mib: float = 0.0
    layers_text: str = ""
    errors: list[str] = field(default_factory=list)


def run(trt: Any, job: Job, report: Report) -> Done:
    """Build with an imported library; errors are told, not raised."""
    start = time.perf_counter()
    log = _make_log(trt)
    builder = trt.Builder(log)
    if not all(_load_plugin(builder, path) for path in job.plugins):
        return Done(errors=[f"the plugin library does not load: {'; '.join(log.errors) or job.plugins}"])
    network = builder.create_network(_network_flags(trt, job))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(job.graph):
        return Done(errors=[_sentence(parser.get_error(index)) for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    _configure(trt, builder, network, config, job, report)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return Done(network.num_layers, errors=log.errors or ["the builder gives no engine"])
    Path(job.engine).write_bytes(engine)
    if job.timing_cache:
        Path(job.timing_cache).write_bytes(config.get_timing_cache().serialize())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = _inspected(trt, log, engine) or log.layers
    return Done(network.num_layers, time.perf_counter() - start, Path(job.engine).stat().st_size, peak, text)


def _network_flags(trt: Any, job: Job) -> int:
    """Strongly typed: the graph carries the precision. Implicit int8 is the one case where TensorRT chooses."""
    flags = trt.NetworkDefinitionCreationFlag
    return 0 if job.calibration_cache or not hasattr(flags, "STRONGLY_TYPED") else 1 << int(flags.STRONGLY_TYPED)


def _configure(trt: Any, builder: Any, network: Any, config: Any, job: Job, report: Report) -> None:
    """Set everything on the builder's config."""
    settings = job.settings
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _make_monitor(trt, report)
    if job.profile is not None:
        _add_profile(builder, network, config, job.profile)
    if settings.get("workspace_mib"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings["workspace_mib"] * _MIB)
    if settings.get("optimization_level") is not None:
        config.builder_optimization_level = settings["optimization_level"]
    for name, flag in (("version_compatible", "VERSION_COMPATIBLE"), ("refittable", "REFIT"), ("strip_weights", "STRIP_PLAN")):
        if settings.get(name):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if settings.get("hardware_compatible"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if job.plugins:
        config.plugins_to_serialize = job.plugins
    _set_target(trt, builder, config, settings)
    if job.calibration_cache:
        _calibrate(trt, config, job.calibration_cache)
    if job.timing_cache:
        _set_timing_cache(config, Path(job.timing_cache))


def _set_target(trt: Any, builder: Any, config: Any, settings: dict[str, Any]) -> None:
    if hasattr(config, "set_compute_capability"):
        wanted = settings.get("compute_capability")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{wanted.replace('.', '')}" if wanted else "CURRENT"), 0)
    core = settings.get("dla_core")
    if core is None:
        return
    if core >= builder.num_DLA_cores:
        raise ValueError(f"dla_core {core} was asked for, and this device has {builder.num_DLA_cores} DLA cores")
    config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
    if settings.get("gpu_fallback", True):
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profile(builder: Any, network: Any, config: Any, shapes: dict[str, list[int]]) -> None:
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *(tuple(shapes[name]) for name in ("min", "opt", "max")))
    config.add_optimization_profile(profile)


def _calibrate(trt: Any, config: Any, path: str) -> None:
    """Implicit int8 with the ranges of a cache, so that no image is needed here."""

    class Ranges(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return Path(path).read_bytes()

        def write_calibration_cache(self, cache: bytes) -> None:
            return None

    config.int8_calibrator = Ranges()
    config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.FP16)


def _set_timing_cache(config: Any, old: Path) -> None:
    cache = config.create_timing_cache(old.read_bytes() if old.is_file() else b"")
    config.set_timing_cache(cache, False)


def _load_plugin(builder: Any, path: str) -> bool:
    return builder.get_plugin_registry().load_library(path) is not None


def _inspected(trt: Any, log: Any, engine: Any) -> str:
    """The inspector's JSON; empty where the engine cannot be loaded (no GPU here)."""
    loaded = trt.Runtime(log).deserialize_cuda_engine(bytes(engine))
    if loaded is None:
        return ""
    return str(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):
        """Keeps the errors, and the message that lists the engine's layers: the inspector's facts without a GPU."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif _LAYERS in message:
                self.layers = message

    return Log()


def _make_monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.every: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.every[phase] = max(1, steps // _TOLD_STEPS)
            report({"phase": phase, "steps": steps})

        def step_complete(self, phase: str, step: int) -> bool:
            if step % self.every.get(phase, 1) == 0:
                report({"step": step + 1, "of": phase})
            return True

        def phase_finish(self, phase: str) -> None:
            report({"end": phase})

    return Monitor()


def _sentence(error: Any) -> str:
    return f"{error.node_operator()} {error.node_name()}: {error.desc()}"


def main(path: str) -> None:
    """Run the job of a JSON file; the process does not outlive the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings.simplefilter("ignore")
    job = Job(**json.loads(Path(path).read_text()))
    try:
        done = run(importlib.import_module(job.module), job, lambda event: print(json.dumps(event), flush=True))
    except Exception as error:
        done = Done(errors=[f"{type(error).__name__}: {error}"])
    print(json.dumps({"done": asdict(done)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
