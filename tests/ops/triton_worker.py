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
    machine.ScanOps.generic_scan = _scan_by_doubling


def _scan_by_doubling(self: Any, inputs: Any) -> list[Any]:
    """The interpreter's scan by doubling, whole slices of a tile at a time: no Python call for every element."""
    import numpy as np

    values = [np.moveaxis(tensor.handle.data, self.axis, 0).copy() for tensor in inputs]
    types = [tensor.dtype for tensor in inputs]
    step = 1
    while step < values[0].shape[0]:
        shifted = [np.roll(value, step, 0) for value in values]  # the first ``step`` wrap round, and are left as they are
        left, right = ([self.to_tensor(v, t) for v, t in zip(part, types, strict=True)] for part in (shifted, values))
        for value, result in zip(values, self.combine_fn.fn(*left, *right), strict=True):
            value[step:] = result.handle.data[step:]
        step *= 2
    return [self.to_tensor(np.ascontiguousarray(np.moveaxis(v, 0, self.axis)), t) for v, t in zip(values, types, strict=True)]
