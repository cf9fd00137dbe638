"""Neighbourhood attention on the CPU: the compiled kernels against a gather of every window, plain torch in tiles, and natten where it is.

    python -m benchmarks.ops_attention

The stages of SegMAN-T at 512x512, one image, float32 with a relative position bias; one process, interleaved rounds, the least time.
``channels first`` has q, k and v as views of one (batch, 3 channels, height, width) tensor, as SegMAN's convolution gives them,
``channels last`` as views of (batch, height, width, 3 channels). natten 0.20 and later has no bias, takes head sizes that are powers of two
and builds the dense scores on the CPU, so it is timed on maps of at most 64x64. Memory is by how much a call raises the peak of a process
of its own. Results: benchmarks/results/ops_attention.json.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops import attention_torch, reference
from segc.ops.attention import _neighborhood_attention_2d_backward, neighborhood_attention_2d
from segc.ops.checks import Window

RESULTS = Path(__file__).parent / "results" / "ops_attention.json"
THREADS, ROUNDS, REPEATS = 2, 5, 5  # REPEATS: of the fast ones within a round
# These run in the first two rounds.
SLOW = ("gather", "torch", "torch backward", "natten")
LARGEST_NATTEN = 64 * 64  # positions of the map


@dataclass(frozen=True)
class Stage:
    """One image's attention."""

    size: int
    heads: int
    head_dim: int
    kernel: int


STAGES = {
    "SegMAN-T stage 1": Stage(128, 1, 32, 11),
    "SegMAN-T stage 2": Stage(64, 2, 32, 9),
    "SegMAN-T stage 3": Stage(32, 4, 36, 9),
    "SegMAN-T stage 4": Stage(16, 8, 24, 7),
}
LARGE = {"SegMAN-B stage 1 at 1024x1024": Stage(256, 4, 24, 11)}


def main() -> None:
    """Measure every stage, store the rows and print them."""
    if sys.argv[1:2] == ["--memory"]:
        print(grown_by(*sys.argv[2:]))
        return
    torch.set_num_threads(THREADS)
    rows = [row for name in STAGES for row in measure(name)]
    rows += [row for name in (next(iter(STAGES)), *LARGE) for row in memories(name)]
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})
    for row in rows:
        print(f"{row.conditions['stage']:30s} {row.metric:40s} {row.value:10.2f} {row.unit}")


def forms(stage: Stage) -> dict[str, Callable[[], object]]:
    """What is measured."""
    torch.manual_seed(0)
    size, heads, dim = stage.size, stage.heads, stage.head_dim
    first = torch.randn(1, 3, heads, dim, size, size).permute(1, 0, 4, 5, 2, 3).unbind(0)
    last = [tensor.contiguous() for tensor in first]
    last = list(torch.stack(last, 3).unbind(3))
    rpb, grad = torch.randn(heads, 2 * stage.kernel - 1, 2 * stage.kernel - 1), torch.randn(1, size, size, heads, dim)
    window, scale = Window((stage.kernel, stage.kernel), (1, 1)), dim**-0.5
    pair = [stage.kernel] * 2, [1, 1]
    found: dict[str, Callable[[], object]] = {
        "compiled, channels first": lambda: neighborhood_attention_2d(*first, stage.kernel, rpb=rpb),
        "compiled, channels last": lambda: neighborhood_attention_2d(*last, stage.kernel, rpb=rpb),
        "compiled backward": lambda: _neighborhood_attention_2d_backward(grad, *first, *pair, scale, rpb),
        "gather": lambda: reference.neighborhood_attention_2d(*last, *window_pairs(window), rpb=rpb),
        "torch": lambda: attention_torch.attention(*last, window, scale, rpb),
        "torch backward": lambda: attention_torch.attention_backward(grad, *last, window, scale, rpb),
    }
    if find_spec("natten") and size * size <= LARGEST_NATTEN and dim & (dim - 1) == 0:
        found["natten"] = natten_form([tensor.contiguous() for tensor in last], stage.kernel)
    return found


def window_pairs(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel size and dilation."""
    return window.kernel_size, window.dilation


def natten_form(inputs: list[Tensor], kernel: int) -> Callable[[], object]:
    """natten's own choice for the CPU."""
    import natten

    return lambda: natten.na2d(*inputs, kernel_size=kernel)


def measure(name: str) -> list[Row]:
    """Times of all forms of one stage, and their ratios."""
    timed = forms(STAGES[name])
    times: dict[str, list[float]] = {form: [] for form in timed}
    with torch.inference_mode():
        for form, run in timed.items():
            if form not in SLOW:
                run()
        for number in range(ROUNDS):
            for form, run in timed.items():
                if form not in SLOW:
                    times[form] += [seconds(run) for _ in range(REPEATS)]
                elif number < 2:
                    times[form].append(seconds(run))
    return rows_of(name, STAGES[name], times)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rows_of(name: str, stage: Stage, times: dict[str, list[float]]) -> list[Row]:
    """The stored rows of one stage; the rate counts the multiply-adds of both products of a forward pass as two each."""
    least = {form: min(values) for form, values in times.items()}
    compiled = least["compiled, channels first"]
    operations = 4 * stage.size**2 * stage.kernel**2 * stage.heads * stage.head_dim
    rows = [(form, 1e3 * value, "ms") for form, value in least.items()]
    rows += [(f"{form} / compiled", least[form] / compiled, "ratio") for form in ("gather", "torch", "natten") if form in least]
    rows.append(("torch backward / compiled backward", least["torch backward"] / least["compiled backward"], "ratio"))
    rows.append(("compiled, arithmetic", operations / compiled / 1e9, "GFLOP/s"))
    return [
        Row(
            metric=metric,
            value=value,
            unit=unit,
            n=len(times.get(metric, times["compiled, channels first"])),
            conditions=conditions(name, stage),
        )
        for metric, value, unit in rows
    ]


def conditions(name: str, stage: Stage) -> dict[str, object]:
    """What another person needs to measure it again."""
    return {"stage": name, **asdict(stage), "threads": THREADS, "dtype": "float32", "bias": True}


def memories(name: str) -> list[Row]:
    """MiB by which each form raises the peak; the gather of a large map is left out, which takes gigabytes."""
    stage = (STAGES | LARGE)[name]
    measured = ["compiled, channels first", "compiled backward", "torch", *(["gather"] if name in STAGES else [])]
    return [
        Row(metric=f"memory of {form}", value=memory(name, form), unit="MiB", n=1, conditions=conditions(name, stage)) for form in measured
    ] + [
        Row(
            metric="size of q",
            value=stage.size**2 * stage.heads * stage.head_dim / 2**18,
            unit="MiB",
            n=1,
            conditions=conditions(name, stage),
        )
    ]


def memory(name: str, form: str) -> float:
    """MiB by which a form's call raises the peak of a process of its own: its results and what it works on."""
    command = [sys.executable, "-m", "benchmarks.ops_attention", "--memory", name, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)})
    return float(done.stdout)


def grown_by(name: str, form: str) -> float:
    """As ``memory``, in this process; a small call before loads what is loaded once."""
    with torch.inference_mode():
        forms(Stage(12, 1, 8, 3))[form]()
        run = forms((STAGES | LARGE)[name])[form]
        ctypes.CDLL(None).malloc_trim(0)  # or the call would find freed memory to use
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is in use
        before = peak()
        run()
    return peak() - before


def peak() -> float:
    """MiB this process had resident at most; ``getrusage`` would count its parent too."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
