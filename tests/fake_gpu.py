"""A GPU and a TensorRT that work in host memory, as strict as the real ones: streams run late, copies need pinned memory, leaks are seen.

``FakeApi`` has the face of ``cuda.bindings.runtime``. With ``late`` (the default) work waits until its stream is synchronized, else it is
done at once: what is right in both cases is right in every order that a GPU may choose. ``FakeTensorRt`` has the face of the module
``tensorrt``; its engines (``ENGINE``) give 1 where the red sample is above 127, as the graphs of ``toy``.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

ENGINE = b"fake engine"
OUT_OF_MEMORY, CAPTURE_INVALIDATED = 2, 901


class FakeApi:
    """See the module. ``broken`` maps a call to the error it gives, ``calls`` counts, ``order`` notes what happened to which stream."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaError_t = SimpleNamespace(cudaErrorInsufficientDriver=35, cudaErrorNoDevice=100)

    def __init__(self, memory: int = 1 << 30, driver: int = 13000, late: bool = True, capability: tuple[int, int] = (8, 6)) -> None:
        self.total, self.driver, self.late, self.capability = memory, driver, late, capability
        self.device: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.captures: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.broken: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.order: list[tuple[str, int]] = []
        self.capturable = True
        self._handles = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not (name.startswith("cuda") and callable(found)):
            return found
        self.calls[name] += 1
        return (lambda *_: (self.broken[name], None)) if name in self.broken else found

    @property
    def held(self) -> int:
        """Things that were made and not ended."""
        return sum(map(len, (self.device, self.pinned, self.streams, self.graphs, self.captures)))

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """Put work into a stream, or into its capture."""
        if stream in self.captures:
            self.captures[stream].append(work)
        elif self.late:
            self.streams[stream].append(work)
        else:
            work()

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, 13000

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return (35, 0) if self.driver < 13000 else (0, 1)

    def cudaGetDeviceProperties(self, _: int) -> tuple[int, Any]:
        major, minor = self.capability
        return 0, SimpleNamespace(name=b"Fake GPU\0\0", major=major, minor=minor)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, f"error {int(error)} happened".encode()

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.total - sum(array.nbytes for array in self.device.values()), self.total

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if size > self.cudaMemGetInfo()[1]:
            return OUT_OF_MEMORY, 0
        return 0, self._keep(self.device, size)

    def cudaHostAlloc(self, size: int, _: int) -> tuple[int, int]:
        return 0, self._keep(self.pinned, size)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.device[address]
        return (0,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.pinned[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        device, host = (to, source) if kind == 1 else (source, to)
        assert self.device[device].nbytes >= size, "a copy past the end of device memory"
        assert self.pinned[host].nbytes >= size, "a copy past the end of pinned memory"
        self.put(stream, lambda: ctypes.memmove(to, source, size) and None)
        return (0,)

    def cudaStreamCreateWithFlags(self, _: int) -> tuple[int, int]:
        return 0, self._handle(self.streams)

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        assert not self.streams.pop(stream), "a stream is ended before its work"
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        self.order.append(("synchronize", stream))
        work, self.streams[stream] = self.streams[stream], []
        for part in work:
            part()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, _: int) -> tuple[int]:
        self.captures[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        work = self.captures.pop(stream)
        return (0, work) if self.capturable else (CAPTURE_INVALIDATED, None)

    def cudaGraphInstantiate(self, work: list[Callable[[], None]], _: int) -> tuple[int, int]:
        handle = self._handle(self.graphs)
        self.graphs[handle] = list(work)
        return 0, handle

    def cudaGraphDestroy(self, _: Any) -> tuple[int]:
        return (0,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.order.append(("launch", stream))
        for part in self.graphs[graph]:
            self.put(stream, part)
        return (0,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    def _keep(self, where: dict[int, np.ndarray], size: int) -> int:
        array = np.full(size, 0xAB, np.uint8)
        where[array.ctypes.data] = array
        return array.ctypes.data

    def _handle(self, where: dict[int, list[Callable[[], None]]]) -> int:
        self._handles += 1
        where[self._handles] = []
        return self._handles


class FakeTensorRt:
    """See the module."""

    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ILogger = type("ILogger", (), {"ERROR": "error", "INTERNAL_ERROR": "internal"})
    IProfiler = type("IProfiler", (), {})

    def __init__(self, api: FakeApi, version: str = "10.3.0.26") -> None:
        self.__version__, self.api = version, api
        self.output_dtype = np.dtype(np.uint8)
        self.context_fails = self.enqueue_fails = False

    def nptype(self, dtype: np.dtype) -> np.dtype:
        return dtype

    def Runtime(self, log: Any) -> Any:
        def load(data: bytes) -> Any:
            if data == ENGINE:
                return FakeEngine(self)
            log.log("info", "loading")
            log.log("error", "Serialization assertion magicTag failed.\nmore")
            log.log("error", "a consequence")
            return None

        return SimpleNamespace(deserialize_cuda_engine=load)


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library

    def get_tensor_name(self, index: int) -> str:
        return ("class_map", "images")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> np.dtype:
        return np.dtype(np.uint8) if name == "images" else self._library.output_dtype

    def create_execution_context(self) -> Any:
        return None if self._library.context_fails else FakeContext(self._library)


class FakeContext:
    def __init__(self, library: FakeTensorRt) -> None:
        self._library = library
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.profiler: Any = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape if name == "images" else self._shape[:3]

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        if self._library.enqueue_fails:
            return False
        shape, device, profiler = self._shape, self._library.api.device, self.profiler
        source, target = device[self._addresses["images"]], device[self._addresses["class_map"]]

        def work() -> None:
            images = source[: int(np.prod(shape))].reshape(shape)
            found = (images[..., 0] > 127).astype(self._library.output_dtype)
            target[: found.nbytes] = found.view(np.uint8).ravel()
            for layer, ms in (("conv", 2.0), ("argmax", 0.5)) if profiler else ():
                profiler.report_layer_time(layer, ms)

        self._library.api.put(stream, work)
        return True
