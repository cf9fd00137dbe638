"""``segc::neighborhood_attention_2d`` as torch sees it, and what it says of wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segc.core.errors import UserError
from segc.ops import attention
from tests.ops.attention_inputs import Problem, answers, errors

PROBLEM = Problem(1, 2, 3, (6, 5), (3, 3), dtype=torch.float64, bias=torch.float64)


def attend(*inputs: Tensor) -> Tensor:
    return attention.neighborhood_attention_2d(*inputs[:3], PROBLEM.kernel, 1, None, *inputs[3:])


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_are_those_of_differences(dilation: int) -> None:
    problem = Problem(1, 1, 2, (6, 7), (3, 3), (1, dilation), dtype=torch.float64, bias=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in problem.inputs()]

    def function(*tensors: Tensor) -> Tensor:
        return attention.neighborhood_attention_2d(*tensors[:3], 3, problem.dilation, None, *tensors[3:])

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("bias", [torch.float64, None])
@pytest.mark.parametrize("first", [False, True])
def test_operator_keeps_torchs_rules(bias: torch.dtype | None, first: bool) -> None:
    problem = Problem(1, 2, 3, (5, 4), (3, 3), dtype=torch.float64, bias=bias, first=first)
    q, k, v, *rest = (tensor.requires_grad_() for tensor in problem.inputs())
    rpb = rest[0] if rest else None
    torch.library.opcheck(attention._neighborhood_attention_2d, (q, k, v, [3, 3], [1, 1], 0.5, rpb))
    detached = [None if tensor is None else tensor.detach() for tensor in (q, q, k, v, rpb)]
    torch.library.opcheck(attention._neighborhood_attention_2d_backward, (*detached[:4], [3, 3], [1, 1], 0.5, detached[4]))


def test_compile_sees_one_node_and_the_same_numbers() -> None:
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return module

    inputs = PROBLEM.inputs()
    torch.testing.assert_close(torch.compile(attend, fullgraph=True, backend=backend)(*inputs), attend(*inputs))
    assert [target for graph in graphs for target in graph] == ["segc.neighborhood_attention_2d.default"]


def test_compiled_training_has_the_same_gradients() -> None:
    def through(*arguments: Any) -> Tensor:
        return attention.neighborhood_attention_2d(*arguments)

    compiled = torch.compile(through, fullgraph=True, backend="aot_eager")
    assert max(errors(answers(compiled, PROBLEM, PROBLEM.inputs()), answers(through, PROBLEM, PROBLEM.inputs()))) == 0


def test_export_sees_one_node() -> None:
    class Module(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> Tensor:
            return attend(q, k, v, rpb)

    program = torch.export.export(Module(), tuple(PROBLEM.inputs()))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["segc.neighborhood_attention_2d.default"]


def test_only_a_bias_may_need_a_gradient() -> None:
    q, k, v, rpb = PROBLEM.inputs()
    rpb.requires_grad_()
    attend(q, k, v, rpb).sum().backward()
    assert rpb.grad is not None and float(rpb.grad.abs().max()) > 0


def shaped(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": shaped(6, 5, 2, 3)}, r"q has shape \(6, 5, 2, 3\); expected \(batch, height, width, heads, head_dim\)"),
        ({"k": shaped(1, 6, 5, 4, 3)}, "k has 4 heads, q has 2"),
        ({"v": shaped(1, 6, 5, 2, 4)}, r"v has shape \(1, 6, 5, 2, 4\); expected \(1, 6, 5, 2, 3\), from q"),
        ({"q": shaped(1, 0, 5, 2, 3)}, "expected at least 1 along every axis"),
        ({"k": shaped(1, 6, 5, 2, 3).half()}, "k is float16 while q is float32"),
        ({"kernel_size": 4}, "kernel_size over the height is 4; expected an odd number from 3 to 63"),
        ({"kernel_size": (3, 65)}, "kernel_size over the width is 65; expected an odd number from 3 to 63"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size is"),
        ({"kernel_size": (3, 7)}, "kernel_size 7 with dilation 1 spans 7, but q's width is 5"),
        ({"dilation": 0}, "dilation over the height is 0; expected at least 1"),
        ({"dilation": (1, 2)}, "kernel_size 3 with dilation 2 spans 6, but q's width is 5"),
        ({"rpb": shaped(2, 3, 3)}, r"rpb has shape \(2, 3, 3\); expected \(2, 5, 5\)"),
        ({"rpb": shaped(2, 5, 5).double()}, "rpb is float64; expected float32 as q"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {name: shaped(1, 6, 5, 2, 3) for name in ("q", "k", "v")}
    with pytest.raises(UserError, match=message):
        attention.neighborhood_attention_2d(**{**arguments, "kernel_size": 3, **changed})
