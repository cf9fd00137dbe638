"""Neighbourhood attention on a GPU: our Triton kernels against flex_attention with the same window and bias, and against gathering.

    python -m benchmarks.gpu_attention [--batch N] [--tiles]

Every stage of SegMAN-T at 512x512 in float16, forward and forward with backward, interleaved in one process. flex_attention is compiled,
its block mask is made and its inputs are put in order beforehand; it runs over rows and over tiles of 8x16 positions, and the faster
counts. ``--tiles`` also times other tiles than the chosen ones. Results: benchmarks/results/gpu_attention.json. Takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks.gpu_timing import interleaved, peak_bytes, the_gpu
from segc.core.files import write_json
from segc.core.rows import Row, environment
from segc.ops import reference
from segc.ops.attention import neighborhood_attention_2d
from segc.ops.checks import Window

RESULTS = Path(__file__).parent / "results" / "gpu_attention.json"
STAGES = {"stage 1": (128, 1, 32, 11), "stage 2": (64, 2, 32, 9), "stage 3": (32, 4, 36, 9), "stage 4": (16, 8, 24, 7)}
ROUNDS, OTHER_TILES = 50, 24
TILE = (8, 16)  # 128 positions, the block of flex_attention


@dataclass(frozen=True)
class Order:
    """The order of a map's positions in a sequence: tile by tile of (rows, columns); a tile as large as a row is row-major."""

    height: int
    width: int
    tile: tuple[int, int]

    def coordinates(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the positions at places of the sequence."""
        rows, columns = self.tile
        tile, inner = index // (rows * columns), index % (rows * columns)
        across = self.width // columns
        return tile // across * rows + inner // columns, tile % across * columns + inner % columns

    def sequence(self, image: Tensor) -> Tensor:
        """(batch, height, width, heads, head_dim) -> (batch, heads, height * width, head_dim)."""
        row, column = self.coordinates(torch.arange(self.height * self.width, device=image.device))
        return image[:, row, column].transpose(1, 2).contiguous()


def mask_of(order: Order, kernel: int) -> Callable[..., Tensor]:
    """flex_attention's ``mask_mod`` of a window shifted inside the map."""

    def sees(query: Tensor, key: Tensor, size: int) -> Tensor:
        start = (query - kernel // 2).clamp(0, size - kernel)
        return (key >= start) & (key < start + kernel)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        rows, columns = zip(order.coordinates(query), order.coordinates(key), strict=True)
        return sees(*rows, order.height) & sees(*columns, order.width)

    return mask


def bias_of(order: Order, kernel: int, rpb: Tensor) -> Callable[..., Tensor]:
    """flex_attention's ``score_mod`` that adds the relative position bias; it is also asked about pairs outside the window."""

    def add(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        rows, columns = zip(order.coordinates(query), order.coordinates(key), strict=True)
        row, column = ((key - query + kernel - 1).clamp(0, 2 * kernel - 2) for query, key in (rows, columns))
        return score + rpb[head, row, column]

    return add


def block_mask(order: Order, kernel: int, device: torch.device) -> BlockMask:
    """The blocks of queries and keys that flex_attention visits."""
    length = order.height * order.width
    return create_block_mask(mask_of(order, kernel), None, None, length, length, device=device)


def main() -> None:
    """Measure every stage and store the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tiles", action="store_true", help="time other tiles too")
    options = parser.parse_args()
    device = the_gpu()
    rows: list[Row] = []
    for stage in STAGES:
        rows += measure(stage, options.batch, device)
        rows += tile_rows(stage, options.batch, device) if options.tiles else []
    gpu = torch.cuda.get_device_name(device)
    write_json(RESULTS, {"gpu": gpu, "rows": [row.model_dump() for row in rows], "environment": environment()})
    for row in rows:
        print(f"{row.metric:44s} {row.conditions['stage']:8s} {row.conditions['pass']:9s} {row.value:10.4f} {row.unit}")


def measure(stage: str, batch: int, device: torch.device) -> list[Row]:
    """Milliseconds, ratios and peak memory of every implementation, forward and with the backward pass."""
    rows: list[Row] = []
    for backward in (False, True):
        functions = implementations(stage, batch, device, backward)
        times = interleaved(functions, ROUNDS)
        where = {"stage": stage, "batch": batch, "pass": "training" if backward else "forward", "dtype": "float16"}
        rows += [_row(name, time, "ms", where) for name, time in times.items()]
        flex = min(times["flex rows"], times["flex tiles"])
        rows.append(_row("faster flex / segc", flex / times["segc"], "ratio", where))
        rows.append(_row("gather / segc", times["gather"] / times["segc"], "ratio", where))
        rows += [_row(f"peak memory, {name}", peak_bytes(functions[name]) / 2**20, "MiB", where) for name in functions]
    return rows


def implementations(stage: str, batch: int, device: torch.device, backward: bool) -> dict[str, Callable[[], object]]:
    """The functions to time, each on its own inputs of the same numbers."""
    size, heads, head_dim, kernel = STAGES[stage]
    source = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(batch, size, size, heads, head_dim, generator=source, device=device, dtype=torch.float16) for _ in range(3))
    rpb = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, generator=source, device=device, dtype=torch.float16)
    scale = head_dim**-0.5

    def ours(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
        return neighborhood_attention_2d(q, k, v, kernel, 1, scale, rpb)

    def gather(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
        return reference.neighborhood_attention_2d(q, k, v, (kernel, kernel), (1, 1), scale, rpb)

    functions = {"segc": _timed(ours, [q, k, v, rpb], backward), "gather": _timed(gather, [q, k, v, rpb], backward)}
    compiled = torch.compile(flex_attention, dynamic=False)
    for name, tile in (("flex rows", (1, size)), ("flex tiles", (min(size, TILE[0]), min(size, TILE[1])))):
        functions[name] = _flex(compiled, Order(size, size, tile), kernel, scale, [q, k, v], rpb, backward)
    return functions


def _flex(
    compiled: Any, order: Order, kernel: int, scale: float, images: list[Tensor], rpb: Tensor, backward: bool
) -> Callable[[], object]:
    blocks = block_mask(order, kernel, rpb.device)

    def attend(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
        return compiled(q, k, v, score_mod=bias_of(order, kernel, rpb), block_mask=blocks, scale=scale)

    return _timed(attend, [*(_widened(order.sequence(image)) for image in images), rpb], backward)


def _widened(sequence: Tensor) -> Tensor:
    """Head dimensions padded with zeros to a power of two, which flex_attention's kernels want."""
    depth = sequence.shape[-1]
    return torch.nn.functional.pad(sequence, (0, (1 << (depth - 1).bit_length()) - depth))


def _timed(attend: Callable[..., Tensor], inputs: list[Tensor], backward: bool) -> Callable[[], object]:
    """One forward pass, or one with all gradients."""
    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return attend(*inputs)

        return forward
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    grad = torch.ones_like(attend(*leaves))
    return lambda: torch.autograd.grad(attend(*leaves), leaves, grad)


def tile_rows(stage: str, batch: int, device: torch.device) -> list[Row]:
    """Forward milliseconds of the chosen tiles and of the next in the plan's order."""
    from segc.ops.triton_kernels.attention_forward import forward
    from segc.ops.triton_kernels.attention_plan import rank_tiles
    from segc.ops.triton_kernels.launch import run

    size, heads, head_dim, kernel = STAGES[stage]
    q = torch.randn(batch, size, size, heads, head_dim, device=device, dtype=torch.float16)
    rpb = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, device=device, dtype=torch.float16)
    window, ranked = Window((kernel, kernel), (1, 1)), rank_tiles((kernel, kernel), head_dim, q.element_size())[:OTHER_TILES]
    launches = [forward(q, q, q, window, head_dim**-0.5, rpb, False, tiles)[2] for tiles in ranked]
    times = interleaved({str(tiles): partial(run, each, device) for tiles, each in zip(ranked, launches, strict=True)}, ROUNDS)
    where = {"stage": stage, "batch": batch, "pass": "forward", "dtype": "float16"}
    return [_row(f"{'chosen ' if name == str(ranked[0]) else ''}{name}", time, "ms", where) for name, time in times.items()]


def _row(metric: str, value: float, unit: str, where: dict[str, Any]) -> Row:
    return Row(metric=metric, value=value, unit=unit, n=ROUNDS, conditions=where)


if __name__ == "__main__":
    main()
