"""TensorRT-RTX, which needs no GPU for a build, as the oracle for "does TensorRT take this graph": the engine is thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from segc.core.errors import UserError
from segc.export.engine.build import run_job
from segc.export.engine.flavour import backend_of, check, find_flavour
from segc.export.engine.flavour import installed as flavour_installed
from segc.export.engine.settings import EngineSettings
from segc.export.engine.worker import Done, Job

NAME = "rtx"


def installed() -> bool:
    """True when the TensorRT-RTX wheel is there."""
    return flavour_installed(NAME)


def build(model: ModelProto | Path, compute_capability: str = "8.6", timeout: float = 300.0) -> Done:
    """Parse an ONNX model and build an engine of it for a compute capability.

    Args:
        model: an ONNX model or its file.
        compute_capability: one that TensorRT-RTX builds for.
        timeout: seconds after which the build is ended.

    Raises:
        UserError: the wheel is not installed, the capability is not known, or the file does not exist.
        CheckFailed: the parser reports errors (they are named), the builder gives no engine, its process ends, or the time is over.
    """
    flavour, settings = find_flavour(NAME), EngineSettings(compute_capability=compute_capability)
    check(flavour, settings, None)
    with tempfile.TemporaryDirectory() as folder:
        path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
        if isinstance(model, ModelProto):
            onnx.save(model, path)
        if not path.is_file():
            raise UserError(f"{path} does not exist.")
        job = Job(backend_of(NAME).package, str(path), f"{folder}/thrown.engine", settings.told())
        return run_job(job, flavour.title, timeout)
