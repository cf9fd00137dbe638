"""TensorRT 10, TensorRT 11 and TensorRT-RTX: which is installed, what it has and what it lacks.

Told apart by what the bindings have, not by version strings: TensorRT 11 removed the precision flags and the int8 calibrators.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from segc.core.errors import UserError, missing_extra
from segc.export.engine.settings import EngineSettings
from segc.runtime.engines import FLAVOURS, library_title
from segc.runtime.gpu import Gpu
from segc.runtime.runner import BACKENDS, Backend

Name = Literal["rtx", "10", "11"]
OLDEST = 10
# What TensorRT-RTX has the names of, but not the thing: tried with 1.7.1.
_LACKED_BY_RTX = {
    "hardware_compatible": "it compiles for the GPU when the engine is loaded (setHardwareCompatibilityLevel is unsupported)",
    "version_compatible": "it has no lean runtime to put into the engine",
    "dla_core": "it runs on desktop GPUs",
}
_NEED_GPU_ON_RTX = ("refittable", "strip_weights")


@dataclass(frozen=True)
class Flavour:
    """One installed library.

    name: ``rtx``, ``10`` or ``11``. version: as the library tells it. targets: compute capabilities it builds for without such a GPU,
    empty where it builds for the GPU of the machine only. calibrates: it takes implicit int8. hosts_plugins: networks may have plugins.
    """

    name: Name
    version: str
    targets: tuple[str, ...] = ()
    calibrates: bool = False
    hosts_plugins: bool = True

    @property
    def title(self) -> str:
        """As its maker writes it, with the version."""
        return f"{library_title(self.name)} {self.version}"


def backend_of(name: str) -> Backend:
    """The backend that runs what a flavour builds: with the same Python bindings (TensorRT 10 and 11 share theirs)."""
    return BACKENDS[FLAVOURS[name]]


def installed(name: str) -> bool:
    """True when the Python bindings of this flavour's library are there."""
    return backend_of(name).installed


def find_flavour(name: str | None = None) -> Flavour:
    """The installed flavour with this name; None takes TensorRT where it is there, else TensorRT-RTX.

    Raises:
        UserError: it is not installed, another version is, or it cannot be used here.
    """
    if name is None:
        name = next((item for item in ("10", "rtx") if installed(item)), None)
        if name is None:
            raise UserError(
                "neither TensorRT nor TensorRT-RTX is installed.",
                "pip install 'segc[rtx]' (builds without a GPU); on a Jetson: apt-get install python3-libnvinfer.",
            )
        return probe(backend_of(name).package)
    backend = backend_of(name)
    if not backend.installed:
        raise missing_extra(backend.package, backend.extra, f"--flavour {name}")
    found = probe(backend.package)
    if found.name != name:
        raise UserError(f"--flavour {name} was asked for, and {found.title} is installed.", f"--flavour {found.name}")
    return found


@cache
def probe(module: str) -> Flavour:
    """Import the library in a process of its own (it can end its process) and look at what it has.

    Raises:
        UserError: it does not import, or it is older than TensorRT 10.
    """
    code = f"import json, {module} as trt; from segc.export.engine.flavour import examine; print(json.dumps(examine(trt)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the Python package {module!r} is installed, but does not import: {last[:300]}.", "Install it again; segc doctor")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["name"] != "rtx" and int(told["version"].partition(".")[0]) < OLDEST:
        raise UserError(f"TensorRT {told['version']} is too old: 10.0 or later is needed.", "JetPack 6 or later has it.")
    return Flavour(**{**told, "targets": tuple(told["targets"])})


def examine(trt: Any) -> dict[str, Any]:
    """The fields of the ``Flavour`` that an imported library is."""
    return {
        "name": "rtx" if "tensorrt_rtx" in trt.__name__ else "10" if hasattr(trt.BuilderFlag, "FP16") else "11",
        "version": trt.__version__,
        "targets": _targets(trt),
        "calibrates": hasattr(trt.BuilderFlag, "INT8") and hasattr(trt, "IInt8EntropyCalibrator2"),
        "hosts_plugins": hasattr(trt.INetworkDefinition, "add_plugin_v3"),
    }


def _targets(trt: Any) -> list[str]:
    numbers = [int(name[2:]) for name in dir(getattr(trt, "ComputeCapability", None)) if name.startswith("SM")]
    return [f"{number // 10}.{number % 10}" for number in sorted(numbers)]


def check(flavour: Flavour, settings: EngineSettings, gpu: Gpu | None) -> str:
    """Refuse what this flavour or this machine cannot do, before any work is done; returns the compute capability to build for.

    Raises:
        UserError: names the setting, the flavour, and what could be done.
    """
    target = _target(flavour, settings.compute_capability, gpu)
    if settings.implicit_int8 and not flavour.calibrates:
        raise UserError(
            f"{flavour.title} has no int8 calibrator: it reads int8 from Q/DQ nodes only.",
            "Leave implicit_int8 out: the Q/DQ graph is used.",
        )
    if flavour.name == "rtx":
        _check_rtx(flavour, settings, gpu)
    return target


def _check_rtx(flavour: Flavour, settings: EngineSettings, gpu: Gpu | None) -> None:
    told = settings.told()
    for name, reason in _LACKED_BY_RTX.items():
        if told.get(name, False) is not False:
            raise UserError(f"{flavour.title} has no {name}: {reason}.", f"Leave {name} out, or use TensorRT 10 or 11.")
    for name in _NEED_GPU_ON_RTX:
        if told.get(name) and gpu is None:
            raise UserError(f"{flavour.title} makes engines with {name} only on a machine with a GPU, and there is none here.")


def _target(flavour: Flavour, wanted: str | None, gpu: Gpu | None) -> str:
    """What is wanted, else the GPU's, where this flavour builds for it."""
    if flavour.targets:
        target = wanted or (gpu.compute_capability if gpu else None)
        known = ", ".join(flavour.targets)
        if target is None:
            raise UserError(
                f"there is no NVIDIA GPU here, and no --compute-capability names one; {flavour.title} knows {known}.",
                "--compute-capability 8.6",
            )
        if target not in flavour.targets:
            raise UserError(
                f"{flavour.title} builds for compute capability {known}; {target} is not one of them.",
                "Build with TensorRT 10 or 11 on that device: --flavour 10.",
            )
        return target
    if gpu is None:
        raise UserError(
            f"{flavour.title} builds on the GPU that the engine is for, and there is no GPU or driver here.",
            "Run this command on the device, or build for a desktop GPU with --flavour rtx --compute-capability 8.6.",
        )
    if wanted not in (None, gpu.compute_capability):
        raise UserError(
            f"{flavour.title} builds for the GPU it runs on ({gpu.name}, {gpu.compute_capability}), not for {wanted}.",
            "Run this command on the device.",
        )
    return gpu.compute_capability
