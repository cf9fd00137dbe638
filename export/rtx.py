"""Build a graph with TensorRT-RTX, which needs no GPU for it: the oracle for "does TensorRT take this graph".

The building runs in a process of its own: the parser can end its whole process (it does so at a plugin node).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from segc.core.errors import CheckFailed, UserError, missing_extra, nearest

PACKAGE = "tensorrt_rtx_bindings"
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
_TOLD = 8


@dataclass(frozen=True)
class RtxBuild:
    """What a build gave: layers of the parsed network, seconds of parsing and building, bytes of the engine."""

    layers: int
    seconds: float
    engine_bytes: int


def installed() -> bool:
    """True when the TensorRT-RTX wheel is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def build(model: ModelProto | Path, compute_capability: str = "SM86", timeout: float = 300.0) -> RtxBuild:
    """Parse an ONNX model and build an engine of it for a compute capability; the engine is thrown away.

    Args:
        model: an ONNX model or its file.
        compute_capability: one of ``CAPABILITIES``.
        timeout: seconds after which the build is ended.

    Raises:
        UserError: the wheel is not installed, the capability is not known, or the file does not exist.
        CheckFailed: the parser reports errors (they are named), the builder gives no engine, its process ends, or the time is over.
    """
    if not installed():
        raise missing_extra(PACKAGE, "rtx", "a TensorRT-RTX build")
    if compute_capability not in CAPABILITIES:
        raise UserError(f"unknown compute capability {compute_capability!r}.{nearest(compute_capability, CAPABILITIES)}")
    if isinstance(model, ModelProto):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            return build(path, compute_capability, timeout)
    if not model.is_file():
        raise UserError(f"{model} does not exist.")
    return _in_a_process(model, compute_capability, timeout)


def _in_a_process(path: Path, compute_capability: str, timeout: float) -> RtxBuild:
    command = [sys.executable, "-m", __name__, str(path), compute_capability]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"TensorRT-RTX did not build {path.name} within {timeout:g} s.") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise CheckFailed(f"TensorRT-RTX ended its process at {path.name} (code {done.returncode}): {' | '.join(last)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["errors"]:
        raise CheckFailed(f"TensorRT-RTX refuses {path.name} with {len(found['errors'])} errors: {'; '.join(found['errors'][:_TOLD])}")
    return RtxBuild(**found["build"])


def _build_here(path: str, compute_capability: str) -> dict[str, Any]:
    """{"errors": sentences, "build": fields of ``RtxBuild`` or None}."""
    import tensorrt_rtx_bindings as trt

    start = time.perf_counter()
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(path):
        return {"errors": [_sentence(parser.get_error(index)) for index in range(parser.num_errors)], "build": None}
    config = builder.create_builder_config()
    config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"errors": ["the builder gives no engine"], "build": None}
    return {"errors": [], "build": asdict(RtxBuild(network.num_layers, time.perf_counter() - start, engine.nbytes))}


def _sentence(error: Any) -> str:
    return f"{error.node_operator()} {error.node_name()}: {error.desc()}"


if __name__ == "__main__":
    print(json.dumps(_build_here(sys.argv[1], sys.argv[2])))
