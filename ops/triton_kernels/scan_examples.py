"""The scans that are compiled ahead of time: the sizes of SegMAN and VMamba, and one long sequence, in every type."""

from __future__ import annotations

import torch
from torch import Tensor

from segc.ops.triton_kernels.launch import ASSUMED_MULTIPROCESSORS, Launch
from segc.ops.triton_kernels.scan import Inputs, backward_launches, cross_inputs, forward_launches, plain_inputs
from segc.ops.triton_kernels.scan_plan import plan_backward, plan_forward

# batch, groups, channels a group, states, (length,) of a plain scan or (height, width) of a crossed one, reverse
SIZES: dict[str, tuple[int, int, int, int, tuple[int, ...], bool]] = {
    "segman_rows": (1, 4, 32, 1, (16384,), False),
    "vmamba_rows": (8, 4, 192, 16, (3136,), False),
    "long": (1, 1, 8, 1, (262144,), False),
    "long_reverse": (1, 1, 8, 16, (262144,), True),
    "odd": (1, 2, 3, 3, (1001,), False),
    "segman_cross": (1, 1, 32, 1, (128, 128), False),
    "vmamba_cross": (8, 1, 192, 16, (56, 56), False),
}
_ALL = ("fp32", "fp16", "bf16")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TYPES_OF = {
    "segman_rows": _ALL,
    "vmamba_rows": _ALL[:2],
    "long": _ALL[:2],
    "long_reverse": _ALL[1:2],
    "odd": _ALL[:1],
    "segman_cross": _ALL[:2],
    "vmamba_cross": _ALL[1:2],
}


def example_inputs(name: str, dtype: torch.dtype, device: str = "meta") -> Inputs:
    """Arguments of the size ``SIZES[name]``, uninitialised, with D, bias and softplus."""
    batch, groups, channels, states, size, reverse = SIZES[name]
    directions = 4 if len(size) == 2 else 1

    def empty(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=of, device=device)

    heads = directions * groups * channels
    B, C = (empty(batch, directions * groups, states, *size) for _ in range(2))
    u, delta = empty(batch, groups * channels, *size), empty(batch, heads, *size)
    A, D, bias = (empty(*shape, of=torch.float32) for shape in ((heads, states), (heads,), (heads,)))
    if directions > 1:
        return cross_inputs(u, delta, A, B, C, D, bias, True)
    return plain_inputs(u, delta, A, B, C, D, bias, True, reverse)


def examples() -> dict[str, list[Launch]]:
    """Launches of every size in its types, forward and backward, as on a GPU of ``ASSUMED_MULTIPROCESSORS``."""
    found: dict[str, list[Launch]] = {}
    for name, labels in TYPES_OF.items():
        for label in labels:
            inputs = example_inputs(name, TYPES[label])
            plan = plan_backward(inputs.shape, ASSUMED_MULTIPROCESSORS)
            found[f"scan_{name}/{label}/forward"] = forward_launches(inputs, plan_forward(inputs.shape, ASSUMED_MULTIPROCESSORS))[1]
            found[f"scan_{name}/{label}/backward"] = backward_launches(inputs, torch.empty_like(inputs.u), plan)[1]
    return found
