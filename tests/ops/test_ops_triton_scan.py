"""The Triton scans in Triton's interpreter on the CPU, against the float64 definition: every path, type, direction and gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from segc.core.errors import UserError
from segc.ops import scan, scan_cuda
from tests.ops.scan_cases import NAMES, Case, reference_results, relative_error
from tests.ops.triton_worker import interpreter

# Largest part of the largest value: a few roundings of the type that comes out (gradients of weights come out in float32).
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}

PLAIN = [
    Case((21,), batch=2, channels=2),
    Case((19,), groups=2, channels=3, states=3, dtype="float64", reverse=True),
    Case((40,), channels=1, states=16, dtype="float16", reverse=True),
    Case((33,), groups=2, channels=1, states=2, dtype="bfloat16", extras=False),
    Case((7,), channels=1, states=3, softplus=False),
]
CROSS = [
    Case((9, 5), channels=3),
    Case((3, 10), batch=2, channels=1, states=3, dtype="float64", softplus=False),
    Case((6, 6), channels=1, states=2, dtype="float16", extras=False),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with interpreter() as executor:
        yield executor


def _inputs(case: Case, arguments: list[torch.Tensor | None]):  # type: ignore[no-untyped-def]
    from segc.ops.triton_kernels.scan import cross_inputs, plain_inputs

    return (cross_inputs if case.cross else plain_inputs)(*arguments, *case.flags)  # type: ignore[arg-type]


def _plans(case: Case) -> list[object]:
    """Small tiles, so that sequences span several with a ragged last one; and one pass where it applies."""
    from segc.ops.triton_kernels.scan_plan import Rows, Tiles

    if case.cross:
        return [Tiles(2, 4, 8, 4)]
    return [Rows(2, 16, 4), Tiles(2, 1, 16, 4)]


def forward_errors(case: Case) -> list[float]:
    from segc.ops.triton_kernels import scan as kernels

    arguments = case.arguments()
    wanted, _ = reference_results(case, arguments, torch.zeros_like(arguments[0]))  # type: ignore[arg-type]
    outputs = [kernels.forward(_inputs(case, arguments), plan) for plan in _plans(case)]  # type: ignore[arg-type]
    assert all(y.dtype == arguments[0].dtype for y in outputs)  # type: ignore[union-attr]
    return [relative_error(y, wanted) for y in outputs]


def backward_errors(case: Case) -> dict[str, float]:
    from segc.ops.triton_kernels import scan as kernels
    from segc.ops.triton_kernels.scan_plan import Backward, Tiles

    arguments = case.arguments()
    inputs = _inputs(case, arguments)
    grad = case.grad(inputs.u)
    _, wanted = reference_results(case, arguments, grad)
    plan = Backward(Tiles(1, 4, 8, 4) if case.cross else Tiles(1, 1, 16, 4), states=min(case.states, 2), splits=2)
    got = kernels.backward(inputs, grad, plan)
    for value, gradient in zip(arguments, got, strict=True):
        assert gradient.numel() == 0 if value is None else (gradient.shape, gradient.dtype) == (value.shape, value.dtype)
    return {name: relative_error(g, w) for name, g, w in zip(NAMES, got, wanted, strict=True) if w is not None}


def poisoned(case: Case, step: int, value: float) -> tuple[list[bool], list[bool], list[bool]]:
    """Which steps are finite when u of channel 0 holds ``value`` at ``step``, in that channel by both paths and in the other channel."""
    from segc.ops.triton_kernels import scan as kernels

    arguments = case.arguments()
    arguments[0][0, 0, step] = value  # type: ignore[index]
    rows, tiles = (kernels.forward(_inputs(case, arguments), plan) for plan in _plans(case))  # type: ignore[arg-type]
    return rows[0, 0].isfinite().tolist(), tiles[0, 0].isfinite().tolist(), (rows[0, 1].isfinite() & tiles[0, 1].isfinite()).tolist()


def errors_by_default(case: Case) -> list[float]:
    """Errors of the output and the gradients as the operators cut the scan on a GPU."""
    from segc.ops.triton_kernels import scan as kernels

    arguments = case.arguments()
    inputs = _inputs(case, arguments)
    grad = case.grad(inputs.u)
    wanted_y, wanted = reference_results(case, arguments, grad)
    gradients = zip(kernels.backward(inputs, grad), wanted, strict=True)
    return [relative_error(kernels.forward(inputs), wanted_y), *(relative_error(g, w) for g, w in gradients if w is not None)]


def softplus_errors() -> list[float]:
    """Relative error of the step at inputs where log(1 + exp(x)) is tiny, near 1, and huge."""
    from segc.ops.triton_kernels import scan as kernels

    x = torch.tensor([-40.0, -15.0, -5.0, -1.0, 0.0, 1.0, 5.0, 30.0, 80.0])
    one = torch.ones(1, 1, 1)
    inputs = [
        kernels.plain_inputs(one, value.view(1, 1, 1), -torch.ones(1, 1), one[None], one[None], None, None, True, False) for value in x
    ]
    steps = torch.stack([kernels.forward(item).flatten()[0] for item in inputs])
    wanted = torch.nn.functional.softplus(x.double())
    return ((steps.double() - wanted).abs() / wanted).tolist()


@pytest.mark.parametrize("case", PLAIN + CROSS, ids=str)
def test_forward_equals_the_definition(pool: ProcessPoolExecutor, case: Case) -> None:
    assert max(pool.submit(forward_errors, case).result()) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("case", PLAIN + CROSS, ids=str)
def test_gradients_equal_the_definition(pool: ProcessPoolExecutor, case: Case) -> None:
    errors = pool.submit(backward_errors, case).result()
    assert {name: error for name, error in errors.items() if not error < TOLERANCE[case.dtype]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("states", [1, 3, 16])
@pytest.mark.parametrize("size", [(1,), (50,), (1, 6), (5, 9), (8, 4)], ids=str)
def test_forward_and_gradients_over_shapes_and_types(pool: ProcessPoolExecutor, size: tuple[int, ...], states: int, dtype: str) -> None:
    case = Case(size, groups=1 if len(size) == 2 else 2, channels=3, states=states, dtype=dtype, reverse=states == 3)
    assert max(pool.submit(forward_errors, case).result()) < TOLERANCE[dtype]
    assert max(pool.submit(backward_errors, case).result().values()) < TOLERANCE[dtype]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_finite_spreads_to_later_steps_of_its_channel(pool: ProcessPoolExecutor, reverse: bool, value: float) -> None:
    step, length = 18, 21
    rows, tiles, other = pool.submit(poisoned, Case((length,), reverse=reverse), step, value).result()
    wanted = [t > step if reverse else t < step for t in range(length)]
    assert rows == wanted and tiles == wanted and all(other)


@pytest.mark.parametrize("case", [Case((1300,), channels=1), Case((34, 40), channels=2, dtype="float16"), Case((300,), states=3)], ids=str)
def test_the_tiles_of_a_gpu_are_right(pool: ProcessPoolExecutor, case: Case) -> None:
    assert max(pool.submit(errors_by_default, case).result()) < TOLERANCE[case.dtype]


def test_softplus_keeps_its_relative_accuracy(pool: ProcessPoolExecutor) -> None:
    assert max(pool.submit(softplus_errors).result()) < 1e-6


@pytest.mark.parametrize(
    "function",
    [
        scan_cuda.selective_scan,
        scan_cuda.selective_scan_backward,
        scan_cuda.cross_selective_scan,
        scan_cuda.cross_selective_scan_backward,
    ],
)
def test_cuda_tensors_need_triton(monkeypatch: pytest.MonkeyPatch, function: Callable[..., object]) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UserError, match=r"selective_scan.*Triton.*pip install 'segc\[gpu\]'"):
        function(torch.ones(1, 1, 1))


@pytest.mark.parametrize(
    "operator",
    [scan._selective_scan, scan._selective_scan_backward, scan._cross_selective_scan, scan._cross_selective_scan_backward],
)
def test_operators_have_a_kernel_of_their_own_on_cuda(operator: torch.library.CustomOpDef) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(operator._qualname, "CUDA")
