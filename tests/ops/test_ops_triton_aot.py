"""Every Triton kernel compiles for every GPU we name, fits its shared memory and does not spill; no GPU is needed."""

from __future__ import annotations

import pytest
import torch

from segc.ops.triton_kernels import aot
from segc.ops.triton_kernels.launch import Launch
from segc.ops.triton_kernels.scan_examples import example_inputs

EXAMPLES = aot.examples()
QUICK = [
    "scan_segman_rows/fp16/forward/0 scan_rows",
    "scan_long/fp32/forward/0 segment_states",
    "scan_long/fp32/forward/1 chain_states",
    "scan_long/fp32/forward/2 scan_tiles",
]


def _check(name: str, capability: int) -> None:
    launch = EXAMPLES[name]
    if aot.runs_on(launch, capability):
        compiled = aot.compile_for(launch, capability)
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        assert aot.too_much(aot.usage(compiled), capability) == ""


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("capability", [75, 87])
def test_forward_kernels_compile_for_the_oldest_gpu_and_a_jetson(name: str, capability: int) -> None:
    _check(name, capability)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kernel_compiles_for_every_gpu(name: str) -> None:
    for capability in aot.CAPABILITIES:
        _check(name, capability)


@pytest.mark.parametrize("name", ["segman_rows", "segman_cross"])
def test_examples_have_the_sizes_they_name(name: str) -> None:
    shape = example_inputs(name, torch.float32).shape
    assert (shape.plane, shape.rows) == (16384, 128)


def test_bfloat16_is_not_asked_of_a_gpu_without_it() -> None:
    launch = EXAMPLES["scan_segman_rows/bf16/forward/0 scan_rows"]
    assert [aot.runs_on(launch, capability) for capability in (75, 80)] == [False, True]


def test_a_variant_is_what_triton_would_launch() -> None:
    """Multiples of 16 and ones are compiled in, None is a constant, and the tail of an odd length is not taken for aligned."""
    source = aot._source(_rows(length=1001, D_ptr=None, groups=1))
    names = list(source.signature)
    assert source.signature["D_ptr"] == source.signature["groups"] == "constexpr"
    assert source.signature["u_ptr"] == "*fp32" and source.signature["length"] == "i32"
    assert (names.index("length"),) not in source.attrs and (names.index("u_ptr"),) in source.attrs
    assert (names.index("length"),) in aot._source(_rows(length=1024)).attrs


def _rows(**changes: object) -> Launch:
    launch = EXAMPLES["scan_segman_rows/fp32/forward/0 scan_rows"]
    return Launch(launch.kernel, launch.grid, launch.arguments | changes, launch.num_warps, launch.num_stages)


def test_too_much_is_named() -> None:
    assert aot.too_much(aot.Usage(255, 99 * 1024, aot.STACK_LIMIT), 89) == ""
    assert "101377 bytes of shared memory" in aot.too_much(aot.Usage(32, 99 * 1024 + 1, 0), 89)
    assert "bytes of stack" in aot.too_much(aot.Usage(255, 0, aot.STACK_LIMIT + 1), 90)
