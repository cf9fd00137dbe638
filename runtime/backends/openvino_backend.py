"""Run a deploy graph in OpenVINO: the fast path on x86 CPUs."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.errors import UserError, missing_extra
from segc.runtime.backends.onnx_metadata import has_functions, read_metadata
from segc.runtime.runner import check_images, read_contract


class OpenVinoRunner:
    """A deploy graph compiled by OpenVINO for the CPU; see ``segc.runtime.runner.Runner``.

    What the graph leaves in float runs in fp32 (``INFERENCE_PRECISION_HINT``): OpenVINO would take bf16 where the CPU has it.

    Args:
        path: the ONNX file.
        precision: told in results.
        threads: inference threads; None leaves it to OpenVINO.
        expected: the contract the file must carry.

    OpenVINO knows no model-local functions: a graph that has some is read with each node replaced by its body.

    Raises:
        UserError: OpenVINO cannot read or compile the file, it carries no contract, or it has functions and onnx is not installed.
    """

    backend = "openvino"

    def __init__(self, path: Path, *, precision: str = "fp32", threads: int | None = None, expected: Contract | None = None) -> None:
        self.contract = read_contract(read_metadata(path).get(CONTRACT_KEY), path, expected)
        # Pinned, the threads of two compiled models share a core: validation was 1.8x slower. A model alone gains nothing by it.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = _core()
        try:
            self._model = core.compile_model(core.read_model(_without_functions(path)), "CPU", settings)
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot compile {path}: {str(error).strip().splitlines()[-1]}") from error
        self._request = self._model.create_infer_request()
        self.precision = precision

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Run one batch: uint8 (N, H, W, 3) -> the contract's output."""
        check_images(images, self.contract)
        self._request.infer([np.ascontiguousarray(images)], share_inputs=True)
        output: NDArray[Any] = self._request.get_output_tensor(0).data.copy()
        return output

    def executed(self) -> Counter[str]:
        """Kind of node -> how many of them run after OpenVINO's own optimisations."""
        kinds = (node.get_rt_info() for node in self._model.get_runtime_model().get_ops())
        return Counter(str(told["layerType"].value) for told in kinds if "layerType" in told)

    def close(self) -> None:
        """Free the compiled model."""
        del self._request, self._model


@functools.cache
def _core() -> openvino.Core:
    """The one core of this process.

    Its CPU plugin changes the main thread's signal stack and puts the earlier one back when it goes. Two that do not go in the opposite
    order leave a stack that was freed, on which the next signal, such as ^C, ends the process (2026.4.1).
    """
    return openvino.Core()


def _without_functions(path: Path) -> Path | bytes:
    """The file itself, or where it has model-local functions the model with their bodies in place."""
    if not has_functions(path):
        return path
    if importlib.util.find_spec("onnx") is None:
        raise missing_extra("onnx", "openvino", f"{path.name} has operators that OpenVINO takes by their bodies only: reading it")
    import onnx
    from onnx import inliner

    model: bytes = inliner.inline_local_functions(onnx.load(path)).SerializeToString()
    return model
