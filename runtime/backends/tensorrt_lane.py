"""One lane through a TensorRT engine: a context, a stream and buffers of its own, and the CUDA graph of its work."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.runtime.cuda import Cuda

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Ports:
    """The engine's input and output: their names, and the output's dtype."""

    images: str
    output: str
    dtype: np.dtype


class Lane:
    """An execution context with a stream and buffers of its own: images in, result out, in the order of the stream.

    The buffers are allocated once, for the largest shape of the engine's profile. After the first run of a shape its work (copy to the
    GPU, engine, copy back) is one CUDA graph. Two lanes overlap: one copies while the other computes.

    Args:
        engine: the deserialized engine; lanes may share it.
        ports: of the engine.
        largest: (batch, height, width) the buffers have to hold.
        log: TensorRT's logger, whose ``error`` explains a failure.
        graphs: capture CUDA graphs.

    Raises:
        UserError: GPU memory does not suffice.
    """

    def __init__(self, engine: Any, ports: Ports, cuda: Cuda, largest: Shape, log: Any, graphs: bool = True) -> None:
        self._cuda, self._ports, self._log, self._graphs = cuda, ports, log, graphs
        self._graph: Any = None
        self._shape: Shape | None = None
        self._waiting = False
        with ExitStack() as stack:
            self.context = _context(engine, cuda)
            self.stream = cuda.stream()
            stack.callback(cuda.end_stream, self.stream)
            self.context.set_input_shape(ports.images, (*largest, 3))
            sizes = (math.prod(largest) * 3, math.prod(self._output_shape()) * ports.dtype.itemsize)
            self._device = [self._take(stack, cuda.allocate(size, "a buffer of the engine"), cuda.free) for size in sizes]
            self._host = [self._take(stack, cuda.pin(size), cuda.unpin) for size in sizes]
            for name, address in zip((ports.images, ports.output), self._device, strict=True):
                self.context.set_tensor_address(name, address)
            self._held = stack.pop_all()

    def submit(self, images: NDArray[np.uint8]) -> None:
        """Start uint8 (N, H, W, 3); ``images`` may be changed at once. ``result`` comes before the next one.

        Raises:
            UserError: the engine's profile does not contain the shape, or TensorRT cannot start it.
        """
        assert not self._waiting, "submit before result"
        self._set_shape((images.shape[0], images.shape[1], images.shape[2]))
        np.copyto(self._source, images)
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph, self.stream)
        self._waiting = True

    def result(self) -> NDArray[Any]:
        """Wait for what was submitted, and give a copy of its output."""
        assert self._waiting, "result without submit"
        self._cuda.synchronize(self.stream)
        found = self._target.copy()
        self._waiting = False
        self._capture()
        return found

    @property
    def captured(self) -> bool:
        """True when the current shape runs as a CUDA graph."""
        return self._graph is not None

    def close(self) -> None:
        """Free buffers, stream and graph; what is still running is waited for."""
        self._cuda.synchronize(self.stream)
        self._drop_graph()
        self._held.close()
        del self.context

    def _set_shape(self, shape: Shape) -> None:
        """Give the context the shape, and take the parts of the pinned buffers that it fills."""
        if shape == self._shape:
            return
        self._drop_graph()
        if not self.context.set_input_shape(self._ports.images, (*shape, 3)):
            raise UserError(f"the engine takes no images of (batch, height, width) {shape}.", "Build it with a profile that contains them.")
        self._shape = shape
        self._source = _view(self._host[0], (*shape, 3), np.dtype(np.uint8))
        self._target = _view(self._host[1], self._output_shape(), self._ports.dtype)

    def _output_shape(self) -> tuple[int, ...]:
        return tuple(self.context.get_tensor_shape(self._ports.output))

    def _enqueue(self) -> None:
        self._cuda.upload(self._device[0], self._source, self.stream)
        if not self.context.execute_async_v3(int(self.stream)):
            raise UserError(f"TensorRT cannot start the engine: {self._log.error or 'it gives no reason.'}")
        self._cuda.download(self._target, self._device[1], self.stream)

    def _capture(self) -> None:
        """After one run by hand, which TensorRT needs for its lazy setup, the next ones are one graph."""
        if not self._graphs or self._graph is not None:
            return
        self._graph = self._cuda.capture(self.stream, self._enqueue)
        self._graphs = self._graph is not None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.end_graph(self._graph)
            self._graph = None

    @staticmethod
    def _take(stack: ExitStack, thing: Any, free: Any) -> Any:
        stack.callback(free, thing)
        return thing


def _context(engine: Any, cuda: Cuda) -> Any:
    context = engine.create_execution_context()
    if context is None:
        free, total = cuda.memory()
        raise UserError(
            f"TensorRT cannot make an execution context: {free / 2**20:.0f} of {total / 2**20:.0f} MiB of GPU memory are free.",
            "End other programs on the GPU, or build the engine for a smaller batch or size.",
        )
    return context


def _view(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
    return memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
