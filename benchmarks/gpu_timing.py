"""Time functions on a GPU against each other: in turn, in one process, each with a cold L2 cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

from segc.core.errors import UserError

WARMUP = 5
FLUSH_BYTES = 256 * 2**20  # more than the L2 cache of any GPU


def the_gpu() -> torch.device:
    """The current CUDA device.

    Raises:
        UserError: there is none.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "this benchmark measures a GPU and torch sees none.", "run it on a host with an NVIDIA GPU and a CUDA build of torch"
        )
    return torch.device("cuda", torch.cuda.current_device())


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each function over ``rounds`` rounds in which each runs once."""
    device = the_gpu()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    for function in functions.values():
        for _ in range(WARMUP):
            function()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            begin.record()
            function()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize(device)
    return {name: statistics.median(begin.elapsed_time(end) for begin, end in pairs) for name, pairs in events.items()}


def peak_bytes(function: Callable[[], object]) -> int:
    """Most memory allocated at once while a function runs, beyond what was allocated before."""
    device = the_gpu()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
