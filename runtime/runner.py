"""One face for every backend: ``Runner.run(uint8 NHWC) -> the graph's output``; ``open_runner`` opens whatever the user names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import UserError, missing_extra, nearest
from segc.runtime.backends.onnx_metadata import refuse_external_data
from segc.runtime.bundle import Manifest, graph_path, read_manifest
from segc.runtime.gpu import find_gpu
from segc.runtime.target import Target, parse_target


class Runner(Protocol):
    """A loaded artefact. Not thread-safe: one runner a thread.

    ``run`` takes uint8 (N, H, W, 3) RGB at the contract's size and returns the contract's output: the class map (N, H, W), or
    float32 logits or probabilities (N, K, H, W).
    """

    contract: Contract
    backend: str
    precision: str

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch."""

    def close(self) -> None:
        """Free the backend's resources."""


@dataclass(frozen=True)
class Backend:
    """A way to run graphs: the module and class that do it (imported when first used), the package it needs, what it opens.

    ``provider`` is ONNX Runtime's name of what it runs on, where that is not the CPU.
    """

    module: str
    opener: str
    package: str
    extra: str
    opens: str
    provider: str = ""

    @property
    def installed(self) -> bool:
        """True when the package is there; a mere folder of its name is none."""
        spec = importlib.util.find_spec(self.package)
        return spec is not None and spec.origin is not None

    @property
    def usable(self) -> bool:
        """True when the package is there and, for a provider of a GPU, brings it and finds a GPU."""
        if not self.installed or not self.provider:
            return self.installed
        available: list[str] = importlib.import_module(self.package).get_available_providers()
        return self.provider in available and find_gpu() is not None


BACKENDS = {
    "onnxruntime": Backend("segc.runtime.backends.onnx_runtime", "OnnxRuntimeRunner", "onnxruntime", "", "graph"),
    "onnxruntime_cuda": Backend("segc.runtime.backends.onnx_runtime", "open_cuda", "onnxruntime", "gpu", "graph", "CUDAExecutionProvider"),
    "onnxruntime_tensorrt": Backend(
        "segc.runtime.backends.onnx_runtime", "open_tensorrt", "onnxruntime", "gpu", "graph", "TensorrtExecutionProvider"
    ),
    "openvino": Backend("segc.runtime.backends.openvino_backend", "OpenVinoRunner", "openvino", "openvino", "graph"),
    "tensorrt": Backend("segc.runtime.backends.tensorrt_backend", "TensorRtRunner", "tensorrt", "tensorrt", "engine"),
    "tensorrt_rtx": Backend("segc.runtime.backends.tensorrt_backend", "open_rtx", "tensorrt_rtx_bindings", "rtx", "engine"),
    "torch": Backend("segc.runtime.backends.torch_backend", "TorchRunner", "torch", "train", "checkpoint"),
}

# ONNX Runtime 1.31 has no convolution in bf16 for the CPU.
_CANNOT = {"onnxruntime": ("bf16",)}


def open_runner(target: str | Target, backend: str | None = None, threads: int | None = None, contract: Contract | None = None) -> Runner:
    """Open a bundle (``PATH@PRECISION``), an ONNX deploy graph or a checkpoint.

    Args:
        target: what to run. A bundle without ``@precision`` gives its preferred graph, else fp32.
        backend: a name of ``BACKENDS``; None takes the bundle's preferred one, else ONNX Runtime for graphs and torch for checkpoints.
        threads: CPU threads inside one run; None lets the backend decide. An engine uses none.
        contract: run a checkpoint under this contract (that of the bundle it is compared with) instead of its config's own.

    Raises:
        UserError: unknown target, backend or precision, a backend that is not installed or cannot open this kind of target.
    """
    found = parse_target(target) if isinstance(target, str) else target
    if found.kind == "checkpoint":
        return _opener(backend or "torch", "checkpoint")(found.path, threads=threads, contract=contract)
    if found.kind == "onnx":
        refuse_external_data(found.path)
        return _opener(backend or "onnxruntime", "graph")(found.path, precision=found.path.stem, threads=threads)
    manifest = read_manifest(found.path)
    precision, chosen = choose(manifest, found.precision, backend)
    if precision in _CANNOT.get(chosen, ()):
        raise UserError(f"backend {chosen!r} has no convolution in {precision} for the CPU.", "--backend openvino")
    if chosen in BACKENDS and BACKENDS[chosen].opens == "engine":
        return _opener(chosen, "engine")(found.path, manifest, precision)
    path = graph_path(found.path, manifest, precision)
    refuse_external_data(path)
    return _opener(chosen, "graph")(path, precision=precision, threads=threads, expected=manifest.contract)


def choose(manifest: Manifest, precision: str | None, backend: str | None) -> tuple[str, str]:
    """(precision, backend) to run: what was asked for, else what the bundle prefers, else fp32 on ONNX Runtime.

    The preferred backend is taken only with the preferred precision: it was chosen for it.
    """
    preferred = manifest.preferred
    if precision is None:
        precision = preferred.get("precision", "fp32") if backend in (None, preferred.get("backend")) else "fp32"
    if backend is None:
        backend = preferred.get("backend") if preferred.get("precision") == precision else None
    return precision, backend or "onnxruntime"


def run_all(runner: Runner, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[Any]]:
    """Outputs of batches, in order; a backend that overlaps the copies of one with the computing of another does so."""
    overlapped = getattr(runner, "run_all", None)
    return overlapped(batches) if overlapped else map(runner.run, batches)


def installed_backends(opens: str = "graph") -> list[str]:
    """Names of the backends that open ``graph``, ``engine`` or ``checkpoint`` and can work on this machine."""
    return [name for name, backend in BACKENDS.items() if backend.opens == opens and backend.usable]


def backends_for(precision: str) -> list[str]:
    """Names of the installed backends that run graphs of a precision."""
    return [name for name in installed_backends() if precision not in _CANNOT.get(name, ())]


def check_images(images: NDArray[Any], contract: Contract) -> None:
    """Refuse images that the contract's graph does not take.

    Raises:
        UserError: wrong dtype, rank, channels, batch or size; the sentence names both.
    """
    wanted = [contract.batch or "N", contract.height or "H", contract.width or "W", 3]
    fits = images.ndim == 4 and all(
        isinstance(want, str) or want == have for want, have in zip(wanted, images.shape, strict=True)
    )  # fmt: skip
    if images.dtype != np.uint8 or not fits:
        raise UserError(
            f"images are {images.dtype} {tuple(images.shape)}; the graph takes uint8 ({', '.join(map(str, wanted))}), RGB.",
            "Export again with --input-size or --batch, or resize the images.",
        )


def read_contract(text: str | None, path: Path, expected: Contract | None) -> Contract:
    """The contract in a graph's metadata; a bundle's graph must say the same as its ``bundle.json``.

    Raises:
        UserError: the file carries none, it is not valid, or it differs from ``expected``.
    """
    if text is None:
        raise UserError(f"{path} carries no segc contract: it is not a deploy graph.", "segc export CONFIG --weights W -o bundle/")
    try:
        contract = Contract.model_validate_json(text)
    except ValueError as error:
        raise UserError(f"{path} carries a contract that is not valid: {error}", "Export it again.") from error
    if expected is not None and contract != expected:
        raise UserError(f"{path} and its bundle.json disagree on the pipeline contract.", "Export the bundle again.")
    return contract


def _opener(name: str, kind: str) -> Callable[..., Runner]:
    backend = BACKENDS.get(name)
    if backend is None:
        raise UserError(f"unknown backend {name!r}.{nearest(name, BACKENDS)}")
    if backend.opens != kind:
        able = [other for other, entry in BACKENDS.items() if entry.opens == kind]
        raise UserError(f"backend {name!r} is for {backend.opens}s, not for a {kind}.", f"Use --backend {' or '.join(able)}.")
    if not backend.installed:
        raise missing_extra(backend.package, backend.extra, f"backend {name!r}")
    opener: Callable[..., Runner] = getattr(importlib.import_module(backend.module), backend.opener)
    return opener
