"""A process in which Triton kernels run on the CPU: its interpreter is chosen when Triton is imported, so it needs a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """An executor of one process with ``TRITON_INTERPRET=1``; this process's environment is left alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_interpret) as pool:
        yield pool


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch
    from triton.runtime import interpreter as machine

    torch.set_num_threads(1)
    machine.ScanOps.generic_scan = _scan_by_slices


def _scan_by_slices(self: Any, inputs: Any) -> list[Any]:
    """The interpreter's scan, a slice of the tile at a time instead of an element: the same combinations, much faster."""
    import numpy as np

    columns = [np.moveaxis(tensor.handle.data, self.axis, 0) for tensor in inputs]
    done: list[list[Any]] = [[column[0]] for column in columns]
    for step in range(1, columns[0].shape[0]):
        left = [self.to_tensor(done[i][-1], tensor.dtype) for i, tensor in enumerate(inputs)]
        right = [self.to_tensor(column[step], tensor.dtype) for column, tensor in zip(columns, inputs, strict=True)]
        combined = self.combine_fn.fn(*left, *right)
        for kept, value in zip(done, combined, strict=True):
            kept.append(value.handle.data)
    return [
        self.to_tensor(np.ascontiguousarray(np.stack(kept, self.axis)), tensor.dtype) for kept, tensor in zip(done, inputs, strict=True)
    ]
