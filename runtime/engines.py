"""Which engine of a bundle this machine runs, and where none: which field differs, and the command that builds one."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path

from segc.core.errors import UserError
from segc.runtime.bundle import Engine, Manifest, build_command, is_of_its_graph
from segc.runtime.cuda import Cuda
from segc.runtime.runner import BACKENDS

# The backend that runs engines of a flavour.
FLAVOURS = {"rtx": "tensorrt_rtx", "10": "tensorrt", "11": "tensorrt"}


@dataclass(frozen=True)
class Machine:
    """What an engine has to fit: flavour and version of the installed library, the GPU, processor and system."""

    flavour: str
    version: str
    gpu: str
    compute_capability: str
    system: str


def this_machine(backend: str, version: str, cuda: Cuda) -> Machine:
    """The machine as the library of ``backend`` in this version sees it."""
    flavour = "rtx" if backend == "tensorrt_rtx" else version.partition(".")[0]
    return Machine(flavour, version, cuda.gpu.name, cuda.gpu.compute_capability, this_system())


def this_system() -> str:
    """Processor and operating system, as an engine's entry names them."""
    return f"{platform.machine()} {platform.system()}"


def differences(engine: Engine, machine: Machine) -> list[str]:
    """What of this machine does not fit the engine, a phrase each; empty when it runs here."""
    same_version = machine.version == engine.version or (engine.version_compatible and not _older(machine.version, engine.version))
    same_gpu = machine.compute_capability == engine.compute_capability or (
        engine.hardware_compatible and not _older(machine.compute_capability, engine.compute_capability)
    )
    lines = [
        (machine.system == engine.machine, "machine", engine.machine, machine.system),
        (_flavour_fits(engine, machine), "flavour", _flavour(engine.flavour), _flavour(machine.flavour)),
        (same_version, "version", engine.version, machine.version),
        (same_gpu, "compute capability", engine.compute_capability, f"{machine.compute_capability} ({machine.gpu})"),
    ]
    return [f"{what} {wanted}, here {found}" for fits, what, wanted, found in lines if not fits]


def pick_engine(bundle: Path, manifest: Manifest, precision: str, backend: str, machine: Machine) -> Engine:
    """The engine of this precision that runs on ``machine``; the last one built where several do.

    Raises:
        UserError: there is none of this precision and flavour, or none fits; also when it was built from a graph that was exported again
            since, or its weights are stripped.
    """
    build = build_command(bundle, precision, backend == "tensorrt_rtx")
    found = [engine for engine in manifest.engines if engine.precision == precision and FLAVOURS[engine.flavour] == backend]
    if not found:
        have = ", ".join(f"{engine.precision} ({_flavour(engine.flavour)})" for engine in manifest.engines) or "none"
        raise UserError(f"bundle {bundle} has no {precision!r} engine for {backend}; it has {have}.", f"Build it: {build}")
    fitting = [engine for engine in found if not differences(engine, machine)]
    if not fitting:
        nearest = min(found, key=lambda engine: len(differences(engine, machine)))
        raise UserError(f"{nearest.file} does not run here: {'; '.join(differences(nearest, machine))}.", f"Build one here: {build}")
    chosen = fitting[-1]
    if chosen.weights_stripped:
        raise UserError(f"{chosen.file} has no weights: it was built stripped.", f"Build it whole: {build}")
    if not is_of_its_graph(manifest, chosen):
        raise UserError(
            f"{chosen.file} was built from another {chosen.source!r} graph than the bundle holds now.", f"Build it again: {build}"
        )
    return chosen


def runnable(manifest: Manifest, backend: str) -> list[str]:
    """Precisions of a bundle's engines that ``backend`` can run on this machine; empty where its package or a GPU is missing."""
    if not BACKENDS[backend].installed or not manifest.engines:
        return []
    try:
        machine = this_machine(backend, library_version(backend), Cuda())
    except UserError:
        return []
    fitting = [engine for engine in manifest.engines if FLAVOURS[engine.flavour] == backend and not differences(engine, machine)]
    return sorted({engine.precision for engine in fitting})


def library_version(backend: str) -> str:
    """Version of the installed library, as it tells it."""
    return str(importlib.import_module(BACKENDS[backend].package).__version__)


def library_title(flavour: str) -> str:
    """The library of a flavour as its maker writes it."""
    return "TensorRT-RTX" if flavour == "rtx" else "TensorRT"


def _flavour_fits(engine: Engine, machine: Machine) -> bool:
    """A version-compatible engine of TensorRT 10 runs on 11."""
    return machine.flavour == engine.flavour or (engine.version_compatible and (engine.flavour, machine.flavour) == ("10", "11"))


def _flavour(name: str) -> str:
    return library_title(name) if name == "rtx" else f"{library_title(name)} {name}"


def _older(version: str, than: str) -> bool:
    return [int(part) for part in version.split(".") if part.isdecimal()] < [int(part) for part in than.split(".") if part.isdecimal()]
