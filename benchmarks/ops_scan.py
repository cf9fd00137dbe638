"""Selective scan on the CPU: the compiled kernels against a step loop and chunked torch, and the fused map scan against permuting.

    python -m benchmarks.ops_scan

One process, interleaved rounds, medians (the slowest forms run once), float32 with softplus, bias and D; random inputs, since time does
not depend on their values. The share of the copy bandwidth counts what has to be moved once: u, delta, B, C read and y written.
Results: benchmarks/results/ops_scan.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops import reference, scan, scan_torch

RESULTS = Path(__file__).parent / "results" / "ops_scan.json"
THREADS, ROUNDS, REPEATS = 2, 3, 5  # REPEATS: of the fast ones within a round
FAST, SLOW = ("compiled", "map, fused", "map, permuted"), ("torch doubling", "torch chunks backward")
# Channels of all four directions together, height and width of the map, states.
SHAPES = {
    "SegMAN-T stage 1": (128, 128, 128, 1),
    "VMamba, short": (384, 64, 64, 16),
    "VMamba, long": (128, 128, 128, 16),
}
Inputs = list[Tensor]
FLAGS = (True, False)


def main() -> None:
    """Measure every shape, store the rows and print them."""
    if sys.argv[1:2] == ["--memory"]:
        print(grown_by(*sys.argv[2:]))
        return
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    for name in SHAPES:
        measured = measure(name)
        rows += measured
        write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})
        for row in measured:
            print(f"{name:18s} {row.metric:44s} {row.value:10.2f} {row.unit}", flush=True)


def make(name: str) -> Inputs:
    """u, delta, A, B, C, D, delta_bias of one image, as maps; u has a quarter of the channels."""
    channels, height, width, states = SHAPES[name]
    torch.manual_seed(0)
    u, delta = torch.randn(1, channels // 4, height, width), torch.randn(1, channels, height, width) - 3
    B, C = torch.randn(2, 1, 4, states, height, width)
    A = -torch.arange(1.0, states + 1).expand(channels, states).contiguous()
    return [u, delta, A, B, C, torch.ones(channels), torch.zeros(channels)]


def sequences(maps: Inputs) -> Inputs:
    """The same as sequences, u along all four directions; the others need no permutation to be a fair input of a scan."""
    u, delta, A, B, C, D, bias = maps
    return [reference.cross_scan(u).flatten(1, 2), delta.flatten(2), A, B.flatten(3), C.flatten(3), D, bias]


def forms(name: str) -> dict[str, Callable[[], object]]:
    """What is timed: forward scans of sequences, of maps, and backward scans."""
    maps = make(name)
    lines, (height, width) = sequences(maps), maps[0].shape[2:]
    grad = torch.randn_like(lines[0])
    operators = torch.ops.segc

    def unfused() -> Tensor:
        y = scan.selective_scan(reference.cross_scan(maps[0]).flatten(1, 2), *lines[1:], *FLAGS)
        return reference.cross_merge(y.unflatten(1, (4, -1)), height, width)

    return {
        "compiled": lambda: scan.selective_scan(*lines, *FLAGS),
        "torch step loop": lambda: step_loop(*lines),
        "torch chunks": lambda: scan_torch.selective_scan(*lines, *FLAGS),
        "torch doubling": lambda: doubling(*lines),
        "map, fused": lambda: scan.cross_selective_scan(*maps, True),
        "map, permuted": unfused,
        "compiled backward": lambda: operators.selective_scan_backward(grad, *lines, *FLAGS),
        "map backward, fused": lambda: operators.cross_selective_scan_backward(maps[0], *maps, True),
        "torch chunks backward": lambda: scan_torch.selective_scan_backward(grad, *lines, *FLAGS),
    }


def step_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """One step after the other with all that can be taken out of the loop taken out, and time as the first axis (one image)."""
    step, members = F.softplus(delta + bias[:, None])[0].T, u.shape[1] // B.shape[1]
    b, c = (tensor[0].permute(2, 0, 1).repeat_interleave(members, 1) for tensor in (B, C))
    states = (step * u[0].T)[..., None] * b
    decay = torch.exp(step[..., None] * A)
    for t in range(1, states.shape[0]):
        states[t].addcmul_(decay[t], states[t - 1])
    return ((states * c).sum(-1) + D * u[0].T).T[None].contiguous()


def doubling(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """The other way to scan in plain torch: log2(length) passes, each combining with what lies 1, 2, 4, ... steps before."""
    step, members = F.softplus(delta + bias[:, None]), u.shape[1] // B.shape[1]
    y = D[:, None] * u
    for n in range(A.shape[1]):
        b, c = (tensor[:, :, n].repeat_interleave(members, 1) for tensor in (B, C))
        decay, state = torch.exp(step * A[:, n, None]), step * u * b
        span = 1
        while span < u.shape[2]:
            state = torch.cat([state[..., :span], torch.addcmul(state[..., span:], decay[..., span:], state[..., :-span])], -1)
            decay = torch.cat([decay[..., :span], decay[..., span:] * decay[..., :-span]], -1)
            span *= 2
        y.addcmul_(state, c)
    return y


def measure(name: str) -> list[Row]:
    """Times of all forms of one shape, their ratios, the share of the copy bandwidth and the memory that each needs."""
    timed = forms(name)
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    timed["copy"] = lambda: target.copy_(source)
    times: dict[str, list[float]] = {form: [] for form in timed}
    with torch.inference_mode():
        for form, run in timed.items():
            if form not in SLOW:
                run()
        for number in range(ROUNDS):
            for form, run in timed.items():
                if number == 0 or form not in SLOW:
                    times[form] += [seconds(run) for _ in range(REPEATS if form in FAST else 1)]
    return rows_of(name, times, 2 * source.numel() * 4)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rows_of(name: str, times: dict[str, list[float]], copied: int) -> list[Row]:
    """The stored rows of one shape."""
    median = {form: statistics.median(values) for form, values in times.items()}
    copy = copied / median.pop("copy")
    channels, height, width, states = SHAPES[name]
    moved = 4 * height * width * (3 * channels + 2 * 4 * states)
    conditions = {"shape": name, "channels": channels, "length": height * width, "states": states, "threads": THREADS, "dtype": "float32"}

    def row(metric: str, value: float, unit: str, n: int = ROUNDS) -> Row:
        return Row(metric=metric, value=value, unit=unit, n=n, conditions=conditions)

    chunked = min(median["torch chunks"], median["torch doubling"])
    return [
        *(row(form, 1e3 * value, "ms", len(times[form])) for form, value in median.items()),
        row("step loop / compiled", median["torch step loop"] / median["compiled"], "ratio"),
        row("best chunked torch / compiled", chunked / median["compiled"], "ratio"),
        row("permuted / fused", median["map, permuted"] / median["map, fused"], "ratio"),
        row("chunked torch backward / compiled backward", median["torch chunks backward"] / median["compiled backward"], "ratio"),
        row("copy bandwidth", copy / 1e9, "GB/s"),
        row("compiled, share of copy bandwidth", 100 * moved / median["compiled"] / copy, "%"),
        *(
            row(f"memory of {form}", memory(name, form), "MiB", 1)
            for form in ("compiled", "torch chunks", "torch step loop", "compiled backward")
        ),
    ]


def memory(name: str, form: str) -> float:
    """MiB by which a form's call raises the peak of a process of its own, without the pages that malloc had kept from making the inputs."""
    command = [sys.executable, "-m", "benchmarks.ops_scan", "--memory", name, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)})
    return float(done.stdout)


def grown_by(name: str, form: str) -> float:
    """As ``memory``, in this process; a small call before loads what is loaded once."""
    SHAPES["small"] = (8, 4, 4, 1)
    with torch.inference_mode():
        forms("small")[form]()
        run = forms(name)[form]
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here (Linux, proc(5))
        before = resident("VmRSS")
        run()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
