"""The CUDA runtime, torch-free: one thin class whose every call is checked, over ``cuda.bindings.runtime``.

Pointers, streams and graphs are what the bindings give; what is made here is ended by the method that names it.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError, missing_extra
from segc.runtime.gpu import Gpu, cuda_version

_MIB = 2**20
_OUT_OF_MEMORY = 2


class CudaError(UserError):
    """A call of the CUDA runtime failed: names the call, the error and what the driver says about it."""


class Cuda:
    """Calls of the CUDA runtime on the first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses it).

    Args:
        api: the module ``cuda.bindings.runtime``, or one with its face.

    Raises:
        UserError: the bindings are not installed, there is no driver or no GPU, or the driver is older than the bindings.
    """

    def __init__(self, api: Any = None) -> None:
        self._api = api or _bindings()
        self._check_driver()
        self.gpu = self._describe()

    def allocate(self, size: int, what: str) -> int:
        """Address of ``size`` bytes on the GPU; ``what`` is named when it has not as much."""
        error, address = self._api.cudaMalloc(size)
        if int(error) == _OUT_OF_MEMORY:
            self._api.cudaGetLastError()  # else the next call is blamed for it
            free, total = self.memory()
            raise UserError(
                f"GPU memory is used up: {what} needs {size / _MIB:.1f} MiB, {free / _MIB:.0f} of {total / _MIB:.0f} MiB are free.",
                "End other programs on the GPU, or take a smaller batch or size.",
            )
        self._check("cudaMalloc", error)
        return int(address)

    def free(self, address: int) -> None:
        """End what ``allocate`` gave."""
        self._call("cudaFree", address)

    def pin(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of page-locked host memory, which copies at full speed and beside the computing; uint8 (size,)."""
        address = self._call("cudaHostAlloc", size, 0)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """End what ``pin`` gave; the array must not be used any more."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def upload(self, to: int, memory: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array to the GPU in stream order."""
        self._copy(to, memory.ctypes.data, memory.nbytes, "cudaMemcpyHostToDevice", stream)

    def download(self, memory: NDArray[Any], address: int, stream: Any) -> None:
        """Fill a contiguous host array from the GPU in stream order."""
        self._copy(memory.ctypes.data, address, memory.nbytes, "cudaMemcpyDeviceToHost", stream)

    def stream(self) -> Any:
        """A new stream that waits for no other."""
        return self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def synchronize(self, stream: Any) -> None:
        """Wait until everything in the stream is done; errors of earlier work are raised here."""
        self._call("cudaStreamSynchronize", stream)

    def end_stream(self, stream: Any) -> None:
        """End what ``stream`` gave."""
        self._call("cudaStreamDestroy", stream)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """What ``work`` puts into the stream as a graph for ``launch``, without doing it; None when it cannot be captured."""
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
            whole = True
        except UserError:
            whole = False
        error, graph = self._api.cudaStreamEndCapture(stream)
        if int(error):
            self._api.cudaGetLastError()
            return None
        try:
            return self._call("cudaGraphInstantiate", graph, 0) if whole else None
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a graph's work into the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def end_graph(self, graph: Any) -> None:
        """End what ``capture`` gave."""
        self._call("cudaGraphExecDestroy", graph)

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU, what other programs use included."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def _copy(self, to: int, source: int, size: int, kind: str, stream: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, size, getattr(self._api.cudaMemcpyKind, kind), stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a call gives: nothing, one value, or a tuple of several."""
        error, *values = getattr(self._api, name)(*arguments)
        self._check(name, error)
        return values[0] if len(values) == 1 else tuple(values)

    def _check(self, name: str, error: Any) -> None:
        if int(error):
            text = self._api.cudaGetErrorString(error)[1]
            raise CudaError(f"{name} failed: {text.decode() if isinstance(text, bytes) else text} (CUDA error {int(error)}).")

    def _check_driver(self) -> None:
        """CUDA gives one error for no driver and for an old one: the driver's version tells them apart."""
        driver, own = int(self._call("cudaDriverGetVersion")), int(self._call("cudaRuntimeGetVersion"))
        if not driver:
            raise UserError(
                "there is no NVIDIA driver: this machine has no GPU, or its driver is not loaded.",
                "Install the driver; start a container with --gpus all.",
            )
        error, count = self._api.cudaGetDeviceCount()
        if int(error) == int(self._api.cudaError_t.cudaErrorInsufficientDriver):
            raise UserError(
                f"the NVIDIA driver is too old: it knows CUDA {cuda_version(driver)}, "
                f"the installed cuda-bindings need {cuda_version(own)}.",
                f"Update the driver, or: pip install 'cuda-bindings=={driver // 1000}.*'",
            )
        if int(error) == int(self._api.cudaError_t.cudaErrorNoDevice) or not (int(error) or count):
            raise UserError("the NVIDIA driver shows no GPU.", "Look at nvidia-smi and at the variable CUDA_VISIBLE_DEVICES.")
        self._check("cudaGetDeviceCount", error)

    def _describe(self) -> Gpu:
        found = self._call("cudaGetDeviceProperties", 0)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Gpu(name.strip("\0"), f"{found.major}.{found.minor}", cuda_version(self._call("cudaDriverGetVersion")))


def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise missing_extra("cuda-bindings", "tensorrt", "running on an NVIDIA GPU") from error
