"""The scan operators as torch sees them: schemas, fake kernels, tracing, autocast, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segc.core.errors import UserError
from segc.ops import scan
from tests.ops.scan_inputs import Case, inputs

PLAIN, CROSS = Case(2, 2, 2, 2, 12, dtype=torch.float32), Case(1, 4, 2, 2, 5, dtype=torch.float32, height=3)
BOTH = pytest.mark.parametrize(("function", "case"), [(scan.selective_scan, PLAIN), (scan.cross_selective_scan, CROSS)])
NODES = {scan.selective_scan: torch.ops.segc.selective_scan.default, scan.cross_selective_scan: torch.ops.segc.cross_selective_scan.default}


class Scan(torch.nn.Module):
    """A network of one scan."""

    def __init__(self, function: Any, case: Case) -> None:
        super().__init__()
        self.function, self.flags = function, case.flags

    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        return self.function(u * 2, delta, A, B, C, D, bias, *self.flags) + 1


@BOTH
@pytest.mark.parametrize("weights", [True, False])
def test_opcheck(function: Any, case: Case, weights: bool) -> None:
    tensors = inputs(case) if weights else [*inputs(case)[:5], None, None]
    leaves = [None if x is None else x.requires_grad_() for x in tensors]
    torch.library.opcheck(NODES[function], (*leaves, *case.flags))


@BOTH
def test_opcheck_of_the_backward_operator(function: Any, case: Case) -> None:
    node = NODES[function].name().removeprefix("segc::")
    backward = getattr(torch.ops.segc, f"{node}_backward").default
    tensors = inputs(case)
    torch.library.opcheck(backward, (torch.ones_like(tensors[0]), *tensors, *case.flags))  # type: ignore[arg-type]


@BOTH
def test_compile_sees_one_node(function: Any, case: Case) -> None:
    tensors, seen = [x.requires_grad_() for x in inputs(case)], []  # type: ignore[union-attr]
    module = Scan(function, case)

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if "segc" in str(node.target))
        return graph

    assert torch.equal(torch.compile(module, fullgraph=True, backend=backend)(*tensors), module(*tensors))
    assert seen == [NODES[function]]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    for mine, theirs in zip(gradients, torch.autograd.grad(module(*tensors).sum(), tensors), strict=True):
        assert torch.equal(mine, theirs)


@BOTH
def test_export_sees_one_node_of_any_length(function: Any, case: Case) -> None:
    tensors = tuple(inputs(case))
    module = Scan(function, case)
    size = torch.export.Dim("size", min=2, max=4096)
    last = {tensors[0].dim() - 1: size}  # type: ignore[union-attr]
    axes = (last, last, None, {tensors[3].dim() - 1: size}, {tensors[3].dim() - 1: size}, None, None)  # type: ignore[union-attr]
    program = torch.export.export(module, tensors, dynamic_shapes=axes)
    assert [node.target for node in program.graph.nodes if "segc" in str(node.target)] == [NODES[function]]
    longer = inputs(Case(**{**vars(case), "length": case.length + 4}))
    assert torch.equal(program.module()(*longer), module(*longer))


@BOTH
def test_autocast_leaves_the_operator_alone(function: Any, case: Case) -> None:
    """Nothing is cast: the types given are the types computed with, and the result has u's."""
    tensors = inputs(case)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(*tensors, *case.flags), function(*tensors, *case.flags))
        assert function(*tensors, *case.flags).dtype == torch.float32
        half = [x.bfloat16() if number in (0, 1, 3, 4) else x for number, x in enumerate(tensors)]  # type: ignore[union-attr]
        assert function(*half, *case.flags).dtype == torch.bfloat16


def test_gradients_only_once() -> None:
    tensors = [x.requires_grad_() for x in inputs(PLAIN)]  # type: ignore[union-attr]
    (first,) = torch.autograd.grad(scan.selective_scan(*tensors, *PLAIN.flags).sum(), tensors[0], create_graph=True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        first.sum().backward()


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("u", torch.ones(2, 4), r"u has shape \(2, 4\); expected \(batch, channels, length\)"),
        ("u", torch.ones(2, 4, 0), r"u has shape \(2, 4, 0\); expected at least 1"),
        ("u", torch.ones(2, 4, 12, dtype=torch.int32), "u is int32; expected float16, bfloat16, float32 or float64"),
        ("delta", torch.ones(2, 4, 11), r"delta has shape \(2, 4, 11\); expected \(2, 4, 12\), from u"),
        ("delta", torch.ones(2, 4, 12).half(), "delta is float16 while u is float32; expected the same dtype"),
        ("A", torch.ones(4), r"A has shape \(4,\); expected \(4, d_state\)"),
        ("A", torch.ones(4, 2).double(), "A is float64 while u is float32; expected float32"),
        ("B", torch.ones(2, 3, 2, 12), r"B has shape \(2, 3, 2, 12\): 3 groups; expected a divisor of u's 4 channels"),
        ("B", torch.ones(2, 2, 3, 12), r"B has shape \(2, 2, 3, 12\); expected \(2, 2, 2, 12\), from u and A"),
        ("B", torch.ones(2, 12), r"B has shape \(2, 12\); expected \(batch, groups, d_state, length\)"),
        ("C", torch.ones(2, 1, 2, 12), r"C has shape \(2, 1, 2, 12\); expected \(2, 2, 2, 12\), from B"),
        ("D", torch.ones(4, 1), r"D has shape \(4, 1\); expected \(4,\), from A"),
        ("delta_bias", torch.ones(4).half(), "delta_bias is float16 while u is float32; expected float32"),
    ],
)
def test_refuses(name: str, wrong: Tensor, sentence: str) -> None:
    given = dict(zip(("u", "delta", "A", "B", "C", "D", "delta_bias"), inputs(PLAIN), strict=True))
    with pytest.raises(UserError, match=sentence):
        scan.selective_scan(**{**given, name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("u", torch.ones(1, 2, 15), r"u has shape \(1, 2, 15\); expected \(batch, channels, height, width\)"),
        ("delta", torch.ones(1, 2, 3, 5), r"delta has shape \(1, 2, 3, 5\); expected \(1, 8, 3, 5\), from u and 4 directions"),
        ("A", torch.ones(2, 2), r"A has shape \(2, 2\); expected \(8, d_state\)"),
        ("C", torch.ones(1, 4, 2, 15), r"C has shape \(1, 4, 2, 15\); expected \(1, 4, 2, 3, 5\)"),
    ],
)
def test_cross_scan_refuses(name: str, wrong: Tensor, sentence: str) -> None:
    given = dict(zip(("u", "delta", "A", "B", "C", "D", "delta_bias"), inputs(CROSS), strict=True))
    with pytest.raises(UserError, match=sentence):
        scan.cross_selective_scan(**{**given, name: wrong})  # type: ignore[arg-type]
