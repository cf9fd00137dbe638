"""The scans on a GPU: share of the copy bandwidth reached, the backward, and four directions in one against stored permutations.

    python -m benchmarks.gpu_scan [--plans]

Every size in float32 and float16, interleaved in one process, each run with a cold L2 cache. The share is the bytes that a scan cannot do
without (``scan_plan.ideal_bytes``) over the time a copy of as many bytes takes. ``--plans`` also times other cuts of the forward than the
chosen one. Needs an NVIDIA GPU. Results: benchmarks/results/gpu_scan.json. Takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_timing import interleaved, peak_bytes, the_gpu
from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops.reference import cross_merge, cross_scan
from segc.ops.scan import selective_scan
from segc.ops.triton_kernels.launch import multiprocessors
from segc.ops.triton_kernels.scan import Inputs, backward, cross_inputs, forward, plain_inputs
from segc.ops.triton_kernels.scan_plan import Rows, Tiles, backward_bytes, forward_bytes, ideal_bytes, plan_backward, plan_forward

RESULTS = Path(__file__).parent / "results" / "gpu_scan.json"
ROUNDS = 50
# batch, groups, channels a group, states, (length,) or (height, width)
SIZES: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "SegMAN-T stage 1": (1, 4, 32, 1, (16384,)),
    "SegMAN-T stage 1, batch 8": (8, 4, 32, 1, (16384,)),
    "SegMAN-T stage 2": (1, 4, 64, 1, (4096,)),
    "VMamba-T stage 1": (8, 4, 192, 1, (3136,)),
    "VMamba-T stage 1, 16 states": (8, 4, 192, 16, (3136,)),
    "one long sequence": (1, 1, 8, 1, (262144,)),
    "SegMAN-T stage 1, crossed": (1, 1, 32, 1, (128, 128)),
    "SegMAN-T stage 1, batch 8, crossed": (8, 1, 32, 1, (128, 128)),
    "VMamba-T stage 1, crossed": (8, 1, 192, 1, (56, 56)),
    "VMamba-T stage 1, 16 states, crossed": (8, 1, 192, 16, (56, 56)),
}
OTHER_PLANS = [
    *(Rows(channels, length, warps, stages) for channels in (1, 2) for length, warps in ((1024, 4), (2048, 8)) for stages in (2, 3)),
    *(Rows(1, 4096, warps, 2) for warps in (8, 16)),
    *(Tiles(1, 1, width, warps) for width, warps in ((512, 2), (1024, 4), (2048, 8), (4096, 16))),
]


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", action="store_true", help="also time other cuts of the plain scans")
    plans = parser.parse_args().plans
    rows: list[Row] = []
    for name in SIZES:
        for dtype in (torch.float32, torch.float16):
            rows += measure(name, dtype, OTHER_PLANS if plans else [])
    gpu = {"gpu": torch.cuda.get_device_name(the_gpu())}
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment() | gpu})


def arguments(name: str, dtype: torch.dtype) -> Inputs:
    """Random arguments of a size, on the GPU."""
    batch, groups, channels, states, size = SIZES[name]
    cross = len(size) == 2
    heads, groups_all = groups * channels * (4 if cross else 1), groups * (4 if cross else 1)
    device = the_gpu()

    def normal(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=device).to(of)

    u, delta = normal(batch, groups * channels, *size), normal(batch, heads, *size) * 0.5 - 1
    B, C = normal(batch, groups_all, states, *size), normal(batch, groups_all, states, *size)
    A, D, bias = -torch.rand(heads, states, device=device), normal(heads, of=torch.float32), normal(heads, of=torch.float32)
    return cross_inputs(u, delta, A, B, C, D, bias, True) if cross else plain_inputs(u, delta, A, B, C, D, bias, True, False)


def measure(name: str, dtype: torch.dtype, plans: list[Rows | Tiles]) -> list[Row]:
    """Forward, backward, the copy, and what else the size is compared with."""
    inputs = arguments(name, dtype)
    shape, element, grad = inputs.shape, dtype.itemsize, torch.randn_like(inputs.u)
    chosen, back = (plan(shape, multiprocessors(inputs.u.device)) for plan in (plan_forward, plan_backward))
    ideal = ideal_bytes(shape, element)
    functions: dict[str, Callable[[], object]] = {
        "copy": _copy(ideal),
        "forward": partial(forward, inputs, chosen),
        "backward": partial(backward, inputs, grad, back),
    }
    if shape.directions > 1:
        functions["unfused forward"] = unfused(inputs)
    elif shape.states == 1:
        functions |= {f"forward {plan}": partial(forward, inputs, plan) for plan in plans}
    times = interleaved(functions, ROUNDS)
    conditions = {"size": name, "dtype": str(dtype).removeprefix("torch."), "forward plan": str(chosen), "backward plan": str(back)}
    moved = {"ideal MB": ideal / 1e6, "forward MB": forward_bytes(shape, chosen, element) / 1e6}
    conditions |= moved | {"backward MB": backward_bytes(shape, back, element) / 1e6}
    rows = [_row(key, value, "ms", conditions) for key, value in times.items()]
    rows.append(_row("share of copy bandwidth", times["copy"] / times["forward"], "ratio", conditions))
    rows += [_row(f"peak memory of {key}", peak_bytes(functions[key]) / 2**20, "MiB", conditions) for key in functions if "forward" in key]
    if "unfused forward" in times:
        rows.append(_row("unfused over fused", times["unfused forward"] / times["forward"], "ratio", conditions))
    print(f"{name:40s} {conditions['dtype']:8s} " + ", ".join(f"{row.metric} {row.value:.3f} {row.unit}" for row in rows))
    return rows


def _copy(moved: int) -> Callable[[], object]:
    """A copy that reads and writes ``moved`` bytes in all."""
    source = torch.empty(moved // 2, dtype=torch.uint8, device=the_gpu())
    target = torch.empty_like(source)
    return partial(target.copy_, source)


def unfused(inputs: Inputs) -> Callable[[], Tensor]:
    """The crossed scan with stored permutations: cross scan, one plain scan, cross merge; delta, B and C are put in order beforehand."""
    shape = inputs.shape
    delta = _in_order(inputs.delta.unflatten(1, (4, shape.channels))).flatten(1, 2)
    B, C = _in_order(inputs.B), _in_order(inputs.C)

    def run() -> Tensor:
        u = cross_scan(inputs.u).flatten(1, 2)
        y = selective_scan(u, delta, inputs.A, B, C, inputs.D, inputs.bias, inputs.softplus)
        return cross_merge(y.unflatten(1, (4, shape.channels)), shape.height, shape.width)

    return run


def _in_order(maps: Tensor) -> Tensor:
    """(batch, 4, n, height, width), a map a direction -> (batch, 4, n, length), each as its direction walks it."""
    return torch.stack([cross_scan(maps[:, k])[:, k] for k in range(4)], 1)


def _row(metric: str, value: float, unit: str, conditions: dict[str, Any]) -> Row:
    return Row(metric=metric, value=value, unit=unit, n=ROUNDS, conditions=conditions)


if __name__ == "__main__":
    main()
