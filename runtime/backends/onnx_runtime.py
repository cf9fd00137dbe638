"""Run a deploy graph in ONNX Runtime: on the CPU, or by its CUDA and TensorRT providers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from segc.core.contract import CONTRACT_KEY, FLOAT_KEY, INPUT, Contract
from segc.core.errors import UserError
from segc.core.files import cache_folder
from segc.runtime.backends.onnx_metadata import read_metadata
from segc.runtime.runner import check_images, read_contract

_ERROR_ONLY = 3
# It would merge the Q/DQ pairs of the readers of one tensor; the pair is then not turned into uint8, and its convolutions stay in float.
DISABLED_OPTIMIZERS = ["CommonSubexpressionElimination"]
# It takes fp16 biases for fp32 ones (1.31.1): behind Q/DQ pairs with fp16 scales 28 % of the pixels got another class.
WRONG_FOR_HALF = ["WeightBiasQuantization"]
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})  # an fp32 graph is computed in fp32
_BACKENDS = {
    "CPUExecutionProvider": "onnxruntime",
    "CUDAExecutionProvider": "onnxruntime_cuda",
    "TensorrtExecutionProvider": "onnxruntime_tensorrt",
}


class OnnxRuntimeRunner:
    """A deploy graph in an ONNX Runtime session; see ``segc.runtime.runner.Runner``.

    Args:
        path: the ONNX file.
        precision: told in results.
        threads: intra-op threads; None leaves it to ONNX Runtime (all physical cores).
        expected: the contract the file must carry.
        optimised: where to write the graph as it is run, for a look at it.
        provider: execution provider; it must become active, ONNX Runtime's silent fall-back to the CPU is an error.

    Raises:
        UserError: not an ONNX file this ONNX Runtime loads, no contract in it, or the provider is not active.
    """

    def __init__(
        self,
        path: Path,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        expected: Contract | None = None,
        optimised: Path | None = None,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _ERROR_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        if provider not in ort.get_available_providers():
            raise UserError(
                f"ONNX Runtime here has no {provider}; it has {', '.join(ort.get_available_providers())}.",
                "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
            )
        disabled = [*DISABLED_OPTIMIZERS, *(WRONG_FOR_HALF if FLOAT_KEY in read_metadata(path) else [])]
        try:
            self._session = ort.InferenceSession(path, options, providers=_providers(provider), disabled_optimizers=disabled)
        except Exception as error:  # ONNX Runtime raises its own unrelated types
            raise UserError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        if self._session.get_providers()[0] != provider:
            raise UserError(
                f"{provider} did not become active for {path}; ONNX Runtime fell back to {self._session.get_providers()[0]}.",
                "Look for the libraries it needs: segc doctor",
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.contract = read_contract(metadata.get(CONTRACT_KEY), path, expected)
        self.backend, self.precision = _BACKENDS[provider], precision

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch: uint8 (N, H, W, 3) -> the contract's output."""
        check_images(images, self.contract)
        output: NDArray[Any] = self._session.run(None, {INPUT: np.ascontiguousarray(images)})[0]
        return output

    def close(self) -> None:
        """Free the session."""
        del self._session


def open_cuda(path: Path, **options: Any) -> OnnxRuntimeRunner:
    """A deploy graph on an NVIDIA GPU; see ``OnnxRuntimeRunner``."""
    return OnnxRuntimeRunner(path, provider="CUDAExecutionProvider", **options)


def open_tensorrt(path: Path, **options: Any) -> OnnxRuntimeRunner:
    """A deploy graph whose nodes TensorRT takes, where it can; the engines it builds are cached. See ``OnnxRuntimeRunner``."""
    return OnnxRuntimeRunner(path, provider="TensorrtExecutionProvider", **options)


def _providers(provider: str) -> list[tuple[str, dict[str, str]]]:
    """The provider and those that take what it leaves; ONNX Runtime itself adds the CPU's at the end."""
    if provider == "TensorrtExecutionProvider":
        cache = str(cache_folder() / "onnxruntime_tensorrt")
        return [(provider, {"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache}), _CUDA]
    return [_CUDA] if provider == _CUDA[0] else [(provider, {})]
