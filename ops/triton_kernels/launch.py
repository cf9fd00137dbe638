"""A kernel launch as data: what runs on a GPU is also what is compiled ahead of time (``aot.py``), from the same description."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

ASSUMED_MULTIPROCESSORS = 132  # where there is no GPU to ask: ahead-of-time compilation and the interpreter


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel.

    Args:
        kernel: a ``triton.jit`` function.
        grid: programs along up to three axes.
        arguments: every argument by name, compile-time constants included; tensors may be on the meta device when nothing runs.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3

    @property
    def options(self) -> dict[str, Any]:
        """Compiler options; fused multiply-add is named because Triton 3.10 turns it off by default."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def run(self) -> None:
        """Launch on the device of the tensors."""
        self.kernel[self.grid](**self.arguments, **self.options)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Launch in order on ``device``."""
    if device.type != "cuda":
        for launch in launches:
            launch.run()
        return
    with torch.cuda.device(device):
        for launch in launches:
            launch.run()


@cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; ``ASSUMED_MULTIPROCESSORS`` for any other."""
    if device.type != "cuda":
        return ASSUMED_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
