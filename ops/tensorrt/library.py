"""Plugin libraries that were built: where they lie, what they were built for, and whether a TensorRT on a GPU can take them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segc.core.errors import UserError
from segc.core.files import cache_folder, read_json, sha256_file

ENVIRONMENT = "SEGC_PLUGIN"
PATTERN = "segc_plugin_*.so"
_MACHINES = {62: "x86_64", 183: "aarch64"}
_FIX = "segc plugins build"


@dataclass(frozen=True)
class PluginLibrary:
    """One library. arch: GPUs it has code for (87 is Orin), later ones run the PTX of the last; tensorrt: version of the headers; both
    empty where nothing beside the library tells (built with CMake). machine: of the processor."""

    path: Path
    machine: str
    arch: tuple[int, ...] = ()
    tensorrt: str = ""

    @cached_property
    def sha256(self) -> str:
        """Of its content."""
        return sha256_file(self.path)


def sidecar(path: Path) -> Path:
    """The JSON file beside a library that says what it was built for."""
    return path.with_suffix(".json")


def read_library(path: Path | str) -> PluginLibrary:
    """Look at a library without loading it.

    Raises:
        UserError: it does not exist, or is no shared library.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"plugin library {path} does not exist.", _FIX)
    head = path.read_bytes()[:20] if path.stat().st_size >= 20 else b""
    if head[:4] != b"\x7fELF":
        raise UserError(f"{path} is not a shared library of Linux.", _FIX)
    number = int.from_bytes(head[18:20], "little")
    told = read_json(sidecar(path)) if sidecar(path).is_file() else {}
    return PluginLibrary(path, _MACHINES.get(number, f"ELF machine {number}"), tuple(told.get("arch", ())), told.get("tensorrt", ""))


def find_libraries() -> list[PluginLibrary]:
    """The library that ``SEGC_PLUGIN`` names, then those that ``segc plugins build`` left in the cache, the newest first.

    Raises:
        UserError: SEGC_PLUGIN names no library.
    """
    named = os.environ.get(ENVIRONMENT)
    built = sorted((cache_folder() / "tensorrt").glob(PATTERN), key=lambda path: path.stat().st_mtime, reverse=True)
    return [read_library(path) for path in [*([Path(named)] if named else []), *built]]


def check_library(library: PluginLibrary, tensorrt: str, compute_capability: str | None) -> None:
    """Refuse a library that this TensorRT on this GPU would not run.

    Args:
        tensorrt: version of the TensorRT that is to load it. compute_capability: of the GPU ("8.7").

    Raises:
        UserError: names what differs: processor, TensorRT's major version, GPU.
    """
    for what, has, needed in _differences(library, tensorrt, compute_capability):
        raise UserError(f"plugin library {library.path} is for {what} {has}, and {needed} is needed.", f"Build it here: {_FIX}")


def choose_library(libraries: Sequence[PluginLibrary], tensorrt: str, compute_capability: str | None) -> PluginLibrary | None:
    """The first that this TensorRT on this GPU would run, None where there is none."""
    return next((item for item in libraries if not _differences(item, tensorrt, compute_capability)), None)


def _differences(library: PluginLibrary, tensorrt: str, compute_capability: str | None) -> list[tuple[str, str, str]]:
    found = []
    if library.machine != platform.machine():
        found.append(("the processor", library.machine, platform.machine()))
    major = tensorrt.partition(".")[0]
    if library.tensorrt and library.tensorrt.partition(".")[0] != major:
        found.append(("TensorRT", library.tensorrt, f"{major}.x"))
    if library.arch and compute_capability is not None:
        wanted = int(compute_capability.replace(".", ""))
        if wanted not in library.arch and wanted < max(library.arch):
            found.append(("GPUs", ", ".join(f"sm_{item}" for item in library.arch), f"sm_{wanted}"))
    return found
