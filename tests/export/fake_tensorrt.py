"""A stand-in for TensorRT's Python bindings, for what cannot be installed here: the names that each version has and lacks, recorded.

``make("10.3.0.26")`` has the precision flags, the int8 calibrators and STRONGLY_TYPED; ``make("11.4.1.9")`` lacks the first two
(NVIDIA's migration guide, TensorRT 10 to 11). Nothing is built: what the worker sets is kept in ``calls``, the engine is b"plan".
"""

from __future__ import annotations

import types
from typing import Any

PLAN = b"plan"
FLAGS = ("GPU_FALLBACK", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "TF32", "SPARSE_WEIGHTS")
ONLY_IN_10 = ("FP16", "INT8", "BF16", "FP8")
INSPECTOR = (
    '{"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Dimensions": [1], "Format/Datatype": "Half"}],'
    ' "Outputs": [{"Name": "y", "Dimensions": [1], "Format/Datatype": "Half"}]}]}'
)


def make(version: str, cores: int = 0, plugins: tuple[str, ...] = ()) -> Any:
    """A module named ``tensorrt`` of this version, on a device with DLA cores, whose registry loads the libraries named."""
    trt: Any = types.ModuleType("tensorrt")
    ten = version.startswith("10.")
    trt.__version__, trt.calls = version, {"flags": [], "profiles": [], "memory": {}}
    trt.ILogger = type("ILogger", (), {"__init__": lambda self: None, "ERROR": 1, "INTERNAL_ERROR": 0, "VERBOSE": 4})
    trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    trt.BuilderFlag = types.SimpleNamespace(**{name: name for name in (*FLAGS, *(ONLY_IN_10 if ten else ()))})
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    trt.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    trt.ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed")
    trt.HardwareCompatibilityLevel = types.SimpleNamespace(AMPERE_PLUS="ampere+")
    trt.DeviceType = types.SimpleNamespace(DLA="dla")
    trt.LayerInformationFormat = types.SimpleNamespace(JSON="json")
    trt.INetworkDefinition = type("INetworkDefinition", (), {"add_plugin_v3": None})
    if ten:
        trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {"__init__": lambda self: None})
    trt.Builder = lambda log: _Builder(trt, cores, plugins)
    trt.OnnxParser = lambda network, log: types.SimpleNamespace(parse_from_file=lambda path: True, num_errors=0)
    trt.Runtime = lambda log: types.SimpleNamespace(deserialize_cuda_engine=lambda plan: _engine())
    return trt


class _Builder:
    def __init__(self, trt: Any, cores: int, plugins: tuple[str, ...]) -> None:
        self.trt, self.num_DLA_cores, self.plugins = trt, cores, plugins

    def get_plugin_registry(self) -> Any:
        return types.SimpleNamespace(load_library=lambda path: path if path in self.plugins else None)

    def create_network(self, flags: int) -> Any:
        self.trt.calls["network_flags"] = flags
        return types.SimpleNamespace(num_layers=3, get_input=lambda index: types.SimpleNamespace(name="images"))

    def create_builder_config(self) -> Any:
        calls = self.trt.calls
        calls["config"] = config = _Config()
        config.set_flag = calls["flags"].append
        config.set_memory_pool_limit = calls["memory"].__setitem__
        config.add_optimization_profile = calls["profiles"].append
        return config

    def create_optimization_profile(self) -> Any:
        profile = types.SimpleNamespace(shapes={})
        profile.set_shape = lambda name, low, best, high: profile.shapes.update({name: (low, best, high)})
        return profile

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        config.progress_monitor.phase_start("Building", None, 2)
        assert config.progress_monitor.step_complete("Building", 0)
        config.progress_monitor.phase_finish("Building")
        return PLAN


class _Config:
    """TensorRT's config takes attributes; a timing cache grows by a byte a build."""

    set_flag: Any
    set_memory_pool_limit: Any
    add_optimization_profile: Any

    def create_timing_cache(self, data: bytes) -> bytes:
        return data + b"t"

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        self.timing = cache

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: self.timing)


def _engine() -> Any:
    inspector = types.SimpleNamespace(get_engine_information=lambda form: INSPECTOR)
    return types.SimpleNamespace(create_engine_inspector=lambda: inspector)
