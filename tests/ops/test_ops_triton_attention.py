"""The GPU kernels of neighbourhood attention, interpreted on the CPU and compiled ahead of time, against the float64 reference."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
import torch

from segc.core.errors import UserError
from segc.ops import attention as operators
from segc.ops import attention_cuda
from segc.ops.reference import window_indices
from segc.ops.triton_kernels import aot
from segc.ops.triton_kernels.attention_examples import examples
from segc.ops.triton_kernels.attention_plan import MAX_WARPS, alignment, choose_strips, choose_tiles, padded
from tests.ops.attention_cases import TOLERANCE, Case, differentiate, ranges, reference, solve, worst
from tests.ops.triton_worker import interpreter

CASES = {
    "kernel as large as the map": Case((1, 5, 5, 1, 20), (5, 5)),
    "images and heads": Case((2, 4, 5, 3, 24), (3, 3)),
    "rectangular kernel": Case((1, 7, 9, 1, 20), (3, 5)),
    "dilation with uneven groups, channels first": Case((1, 10, 11, 1, 36), (3, 3), (3, 2), first=True),
    "wider than a strip, float16": Case((1, 6, 18, 1, 36), (5, 3), dtype=torch.float16, bias=torch.float16),
    "bfloat16, channels first": Case((1, 7, 8, 1, 64), (3, 3), (1, 2), torch.bfloat16, first=True),
    "SegMAN's kernel, no bias": Case((1, 12, 13, 1, 16), (11, 11), bias=None),
    "negative scale": Case((1, 3, 4, 1, 16), (3, 3), scale=-0.3),
    "scale of zero": Case((1, 3, 4, 1, 16), (3, 3), scale=0.0),
    "taller than a segment, float64": Case((1, 18, 4, 1, 16), (5, 3), dtype=torch.float64, bias=torch.float64),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Executor]:
    with interpreter() as pool:
        yield pool


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_interpreted_kernels_equal_the_reference(worker: Executor, case: Case) -> None:
    errors = worst(worker.submit(solve, case).result(), reference(case))
    assert max(errors.values()) <= TOLERANCE[case.dtype], errors


def test_interpreted_operator_differentiates(worker: Executor) -> None:
    case = Case((1, 3, 7, 1, 16), (3, 3), (1, 2))
    found, again = worker.submit(differentiate, case).result()
    assert max(worst(found, reference(case)).values()) <= TOLERANCE[torch.float32]
    assert all((a == b).all() for a, b in zip(found[1:], again, strict=True)), "with and without the saved softmax"


@pytest.mark.parametrize(
    ("size", "kernel"), [(3, 3), (4, 3), (9, 3), (5, 5), (7, 5), (8, 5), (12, 5), (13, 7), (15, 15), (20, 15), (40, 15)]
)
def test_ranges_of_queries_are_exact(worker: Executor, size: int, kernel: int) -> None:
    keys, entries = window_indices(size, kernel, 1)
    pairs = [(query, int(key), int(entry)) for query in range(size) for key, entry in zip(keys[query], entries[query], strict=True)]
    first, last, begin, end = worker.submit(ranges, size, kernel).result()
    for key in range(size):
        assert list(range(first[key], last[key] + 1)) == [query for query, seen, _ in pairs if seen == key]
    for entry in range(2 * kernel - 1):
        assert list(range(begin[entry], end[entry])) == [query for query, _, at in pairs if at == entry]


@pytest.mark.parametrize("item_bytes", [2, 4, 8])
def test_tiles_suit_every_gpu(item_bytes: int) -> None:
    kernels = [(3, 3), (7, 7), (9, 9), (11, 11), (3, 11), (31, 13), (63, 63)]
    for kernel, head_dim, accumulators in itertools.product(kernels, (1, 20, 32, 36, 64, 128, 256), (1, 2)):
        if head_dim * item_bytes > 1024:
            continue
        tiles = choose_tiles(kernel, head_dim, item_bytes, accumulators)
        own, loop = tiles.own[0] * tiles.own[1], tiles.loop[0] * tiles.loop[1]
        assert own >= 16 and loop >= 16 and own & (own - 1) == 0 and loop & (loop - 1) == 0
        assert tiles.warps <= MAX_WARPS and tiles.warps & (tiles.warps - 1) == 0
        shared = 2 * (own + tiles.stages * loop) * padded(head_dim) * item_bytes
        assert shared <= (64 if padded(head_dim) * item_bytes <= 512 else 96) * 1024
        assert own * accumulators * padded(head_dim) * max(4, item_bytes) <= tiles.warps * 32 * 255 * 4
        assert loop <= 2 * own or accumulators == 1 or head_dim <= 32


def test_tiles_grow_with_the_kernel() -> None:
    own = [choose_tiles((kernel, kernel), 32, 2).own for kernel in (3, 11, 63)]
    areas = [rows * columns for rows, columns in own]
    assert areas == sorted(areas) and areas[0] < areas[-1]


@pytest.mark.parametrize(("head_dim", "item_bytes", "most"), [(257, 2, "256"), (300, 4, "256"), (129, 8, "128")])
def test_tiles_refuse_long_heads(head_dim: int, item_bytes: int, most: str) -> None:
    with pytest.raises(UserError, match=f"head_dim {head_dim}.*up to {most}"):
        choose_tiles((7, 7), head_dim, item_bytes)


def test_strips_cover_the_map_and_depend_on_the_problem_alone() -> None:
    strips = choose_strips((2, 33, 40, 3), (11, 9), (2, 3), 36, 2)
    assert strips.items == 2 * (2 * 3) * 2 * 1  # images, groups, segments of 17 rows, strips of 14 columns
    assert strips.chunks * strips.keys >= strips.queries + 2 * 9 - 2
    assert 1 <= strips.splits <= strips.items


@pytest.mark.parametrize(("head_dim", "item_bytes"), [(32, 2), (64, 4), (128, 8), (256, 2), (256, 4)])
def test_strips_suit_every_gpu(head_dim: int, item_bytes: int) -> None:
    for kernel in (3, 31, 63):
        strips = choose_strips((1, 70, 70, 2), (kernel, kernel), (1, 1), head_dim, item_bytes)
        assert 16 <= strips.queries <= strips.keys and strips.warps <= MAX_WARPS
        assert strips.stages * 2 * (strips.queries + strips.keys) * head_dim * item_bytes <= 64 * 1024


def test_alignment_of_layouts() -> None:
    last, first = torch.empty(2, 8, 8, 3, 36), torch.empty(2, 3, 36, 8, 8).permute(0, 3, 4, 1, 2)
    assert alignment(last) == 4 and alignment(first) == 1 and alignment(torch.empty(2, 8, 8, 3, 32)) == 16
    assert alignment(last, torch.empty(2, 8, 8, 3, 40)[..., 1:37]) == 4


def test_cuda_tensors_need_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    q = torch.empty(1, 3, 3, 1, 16)
    with pytest.raises(UserError, match=r"neighborhood_attention_2d.*Triton.*pip install 'segc\[gpu\]'"):
        attention_cuda.attention(q, q, q, (3, 3), (1, 1), 1.0, None)


@pytest.mark.parametrize("operator", [operators._neighborhood_attention_2d, operators._neighborhood_attention_2d_backward])
def test_operators_have_a_kernel_of_their_own_on_cuda(operator: torch.library.CustomOpDef) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(operator._qualname, "CUDA")


def test_kernels_compile_for_a_jetson_onto_tensor_cores_with_hardly_a_spill() -> None:
    for launch in examples()["attention_segman_t1/float16"]:
        compiled = aot.compile_for(launch, 87)
        usage = aot.usage(compiled)
        # None with Triton 3.9, 8 bytes in one kernel with 3.7.1.
        assert usage.stack <= 8 and usage.shared <= 48 * 1024, (launch.kernel.__name__, usage)
        assert "mma.sync" in compiled.asm["ptx"]
