"""Neighbourhood attention on a real GPU against the float64 reference; without one only the benchmark's rival is checked, on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.gpu_attention import Order, bias_of, block_mask
from segc.core.errors import UserError
from segc.ops.attention import neighborhood_attention_2d
from segc.ops.reference import neighborhood_attention_2d as definition
from tests.ops.attention_cases import TOLERANCE, Arrays, Case, arrays, reference, worst

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
HALF, BFLOAT = torch.float16, torch.bfloat16
CASES = {
    "SegMAN-T stage 1": Case((2, 128, 128, 1, 32), (11, 11), dtype=HALF, bias=HALF),
    "SegMAN-T stage 2": Case((2, 64, 64, 2, 32), (9, 9), dtype=HALF, bias=HALF),
    "SegMAN-T stage 3": Case((2, 32, 32, 4, 36), (9, 9), dtype=HALF, bias=HALF),
    "SegMAN-T stage 4": Case((2, 16, 16, 8, 24), (7, 7), dtype=HALF, bias=HALF),
    "SegMAN-T stage 1, float32": Case((1, 128, 128, 1, 32), (11, 11)),
    "SegMAN-B stage 2, bfloat16": Case((1, 64, 64, 8, 20), (9, 9), dtype=BFLOAT),
    "channels first": Case((2, 45, 61, 3, 36), (9, 9), dtype=HALF, first=True),
    "channels first, aligned": Case((2, 64, 64, 2, 32), (9, 9), dtype=HALF, first=True),
    "channels first, float32": Case((2, 45, 61, 3, 28), (7, 7), first=True),
    "kernel as large as the map": Case((2, 13, 13, 2, 64), (13, 13), dtype=HALF),
    "rectangular": Case((1, 37, 50, 2, 32), (3, 13)),
    "dilated, uneven groups": Case((2, 47, 38, 2, 32), (7, 5), (3, 4), dtype=HALF),
    "dilated, channels first, bfloat16": Case((1, 47, 38, 2, 24), (5, 7), (4, 2), dtype=BFLOAT, first=True),
    "largest kernel": Case((1, 70, 66, 1, 32), (63, 63), dtype=HALF),
    "largest head": Case((1, 20, 20, 1, 256), (7, 7)),
    "no bias": Case((2, 31, 33, 2, 128), (7, 7), dtype=HALF, bias=None),
    "negative scale": Case((1, 17, 14, 1, 32), (5, 5), scale=-0.3),
    "float64": Case((1, 21, 19, 2, 32), (5, 7), dtype=torch.float64, bias=torch.float64),
}


def _on_gpu(case: Case) -> Arrays:
    images, bias, grad = case.tensors("cuda")
    inputs = [tensor.requires_grad_() for tensor in (*images, *([] if bias is None else [bias]))]
    out = neighborhood_attention_2d(*inputs[:3], case.kernel, case.dilation, case.scale, None if bias is None else inputs[3])
    return arrays([out, *torch.autograd.grad(out, inputs, grad)])


@needs_gpu
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gpu_equals_the_reference(case: Case) -> None:
    errors = worst(_on_gpu(case), reference(case, "cuda"))
    assert max(errors.values()) <= TOLERANCE[case.dtype], errors


@needs_gpu
def test_gpu_gives_the_same_bits_twice() -> None:
    case = CASES["SegMAN-T stage 2"]
    assert all((a == b).all() for a, b in zip(_on_gpu(case), _on_gpu(case), strict=True))


@needs_gpu
def test_gpu_operator_attends_alike_without_a_gradient_and_when_compiled() -> None:
    (q, k, v), bias, _ = CASES["SegMAN-T stage 3"].tensors("cuda")
    eager = neighborhood_attention_2d(q, k, v, 9, 1, None, bias)
    compiled = torch.compile(lambda q: neighborhood_attention_2d(q, k, v, 9, 1, None, bias), fullgraph=True)(q)
    trained = neighborhood_attention_2d(q.requires_grad_(), k, v, 9, 1, None, bias)
    assert torch.equal(eager, compiled) and torch.equal(eager, trained.detach())


@needs_gpu
def test_gpu_operator_passes_opcheck() -> None:
    (q, k, v), bias, _ = Case((1, 12, 12, 2, 32), (5, 5)).tensors("cuda")
    torch.library.opcheck(torch.ops.segc.neighborhood_attention_2d.default, (q, k, v, (5, 5), (1, 1), 0.3, bias))


@needs_gpu
def test_gpu_memory_does_not_grow_with_the_window() -> None:
    def peak(kernel: int) -> int:
        (q, k, v), bias, grad = Case((2, 64, 64, 2, 32), (kernel, kernel), dtype=HALF).tensors("cuda")
        assert bias is not None
        leaves = [tensor.requires_grad_() for tensor in (q, k, v, bias)]
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        neighborhood_attention_2d(*leaves[:3], kernel, 1, None, leaves[3]).backward(grad)
        return torch.cuda.max_memory_allocated() - before

    assert peak(31) < 12 * 2 * 64 * 64 * 2 * 32 * 2 and peak(31) < 2 * peak(3)


@needs_gpu
def test_gpu_refuses_long_heads() -> None:
    q = torch.zeros(1, 8, 8, 1, 300, device="cuda")
    with pytest.raises(UserError, match=r"head_dim 300.*up to 256"):
        neighborhood_attention_2d(q, q, q, 3)


@pytest.mark.parametrize("tile", [(1, 12), (2, 4)])
def test_flex_attention_of_the_benchmark_attends_as_ours(tile: tuple[int, int]) -> None:
    case = Case((1, 8, 12, 2, 16), (5, 5))
    (q, k, v), bias, _ = case.tensors()
    assert bias is not None
    order = Order(8, 12, tile)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(q, k, v, score_mod=bias_of(order, 5, bias), block_mask=block_mask(order, 5, q.device), scale=0.3)

    found = attend(*(order.sequence(image) for image in (q, k, v)))
    wanted = order.sequence(definition(q, k, v, (5, 5), (1, 1), 0.3, bias))
    assert (found - wanted).abs().max() <= 1e-5
