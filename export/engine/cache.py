"""Engines that were built once, kept by what they depend on: graph, settings, library, GPU, plugins."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segc.core.files import atomic_path, cache_folder, read_json, sha256_json, write_json
from segc.export.engine.flavour import Flavour
from segc.export.engine.worker import Done
from segc.runtime.gpu import Gpu

FOLDER = "engines"
# Raised when the builder makes another engine of the same settings.
_FORM = 1


def engine_key(graph_sha256: str, settings: dict[str, Any], flavour: Flavour, gpu: Gpu | None, others: list[str]) -> str:
    """Hash of all that decides what an engine is; ``others``: hashes of plugin libraries and the calibration cache."""
    built_for = None if gpu is None else (gpu.name, gpu.compute_capability)
    return sha256_json([_FORM, graph_sha256, settings, flavour.name, flavour.version, built_for, others])


def take(key: str, target: Path) -> Done | None:
    """Copy a kept engine to ``target``; what its build told, None where there is none."""
    engine, told = _paths(key)
    if not (engine.is_file() and told.is_file()):
        return None
    done = Done(**read_json(told))
    if engine.stat().st_size != done.engine_bytes:
        return None
    shutil.copyfile(engine, target)
    return done


def keep(key: str, engine: Path, done: Done) -> None:
    """Keep an engine; the description is written last, so that it never stands without its engine."""
    kept, told = _paths(key)
    with atomic_path(kept) as temporary:
        shutil.copyfile(engine, temporary)
    write_json(told, asdict(done))


def timing_cache(flavour: Flavour, gpu: Gpu | None) -> Path | None:
    """File of the kernels' measured times for this library and GPU; None for TensorRT-RTX, which measures none."""
    if flavour.name == "rtx" or gpu is None:
        return None
    path = cache_folder() / FOLDER / f"timing-{flavour.version}-{sha256_json([gpu.name, gpu.compute_capability])[:8]}.cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_folder() / FOLDER
    return folder / f"{key[:24]}.engine", folder / f"{key[:24]}.json"
