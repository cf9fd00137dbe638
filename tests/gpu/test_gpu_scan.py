"""The scans on a real GPU, operator and autograd, against the float64 definition; without one only the benchmark's rival is checked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_scan import unfused
from segc.ops.scan import cross_selective_scan, selective_scan
from segc.ops.triton_kernels.scan import cross_inputs
from tests.ops.scan_cases import NAMES, Case, reference_results, relative_error

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

# Largest part of the largest value. The GPU's exp is good to some 1e-7, and thousands of steps add up in float32.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}

CASES = [
    Case((16384,), groups=4, channels=32),
    Case((16384,), groups=4, channels=32, dtype="float16", reverse=True),
    Case((3136,), batch=2, groups=4, channels=24, states=16, dtype="bfloat16"),
    Case((3136,), batch=2, groups=4, channels=24, states=16),
    Case((20001,), channels=2, reverse=True),
    Case((20001,), channels=1, states=16, dtype="float16"),
    Case((1001,), batch=3, groups=2, channels=3, states=3, extras=False),
    Case((777,), channels=5, states=33, softplus=False),
    Case((1,), channels=1),
    Case((513,), groups=2, channels=2, states=2, dtype="float64"),
    Case((128, 128), channels=32, dtype="float16"),
    Case((128, 128), channels=4),
    Case((56, 56), batch=2, channels=12, states=16, dtype="float16"),
    Case((37, 101), batch=2, channels=3, states=2, dtype="bfloat16", extras=False),
    Case((1, 70), channels=2, states=3),
    Case((65, 33), channels=3, states=3, dtype="float64", softplus=False),
]


def _operator(case: Case, arguments: list[Tensor | None]) -> Tensor:
    return (cross_selective_scan if case.cross else selective_scan)(*arguments, *case.flags)  # type: ignore[arg-type, operator]


def _differentiated(case: Case) -> tuple[Tensor, list[Tensor | None], list[Tensor | None], Tensor]:
    """Output, gradients, arguments and output gradient on the GPU."""
    arguments = [value if value is None else value.requires_grad_() for value in case.arguments("cuda")]
    y = _operator(case, arguments)
    grad = case.grad(y)
    found = iter(torch.autograd.grad(y, [value for value in arguments if value is not None], grad))
    return y.detach(), [None if value is None else next(found) for value in arguments], arguments, grad


@needs_gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_equal_the_definition(case: Case) -> None:
    y, gradients, arguments, grad = _differentiated(case)
    wanted_y, wanted = reference_results(case, arguments, grad)
    errors = {"y": relative_error(y, wanted_y)}
    errors |= {name: relative_error(g, w) for name, g, w in zip(NAMES, gradients, wanted, strict=True) if g is not None and w is not None}
    assert {name: error for name, error in errors.items() if not error < TOLERANCE[case.dtype]} == {}


@needs_gpu
@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[12]], ids=str)
def test_runs_are_equal_bit_by_bit(case: Case) -> None:
    first, again = _differentiated(case), _differentiated(case)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True) if a is not None and b is not None)


@needs_gpu
def test_the_longest_sequence() -> None:
    """262,144 steps in float32 against the CPU operator in float64."""
    case = Case((262144,), channels=2)
    arguments = case.arguments()
    double = [value if value is None else value.double() for value in arguments]
    y = _operator(case, [value if value is None else value.cuda() for value in arguments])
    assert relative_error(y, _operator(replace(case, dtype="float64"), double)) < TOLERANCE["float32"]


@needs_gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [4000, 40000])
def test_what_is_not_finite_spreads_to_later_steps_of_its_channel(length: int, reverse: bool) -> None:
    case, step = Case((length,), channels=200 if length == 4000 else 2, reverse=reverse), length // 2
    arguments = case.arguments("cuda")
    assert arguments[0] is not None
    arguments[0][0, 0, step] = float("nan")
    finite = _operator(case, arguments).isfinite()
    steps = torch.arange(length, device="cuda")
    assert torch.equal(finite[0, 0], steps > step if reverse else steps < step) and bool(finite[0, 1:].all())


@needs_gpu
def test_tensors_that_are_not_contiguous() -> None:
    case = Case((300,), channels=4)
    arguments = case.arguments("cuda")
    strided = [value if value is None else torch.stack([value, value], -1)[..., 0] for value in arguments]
    assert torch.equal(_operator(case, strided), _operator(case, arguments))


@needs_gpu
def test_compiled_with_torch() -> None:
    case = Case((2000,), channels=8)
    arguments = case.arguments("cuda")
    compiled = torch.compile(lambda *values: _operator(case, list(values)) * 2, fullgraph=True)
    assert torch.equal(compiled(*arguments), _operator(case, arguments) * 2)


def test_the_rival_with_stored_permutations_is_the_same_function() -> None:
    case = Case((5, 7), batch=2, channels=3, states=2, dtype="float64")
    arguments = case.arguments()
    rival = unfused(cross_inputs(*arguments, True))  # type: ignore[arg-type]
    assert relative_error(rival(), _operator(case, arguments)) < 1e-12
