"""2:4 sparsity: of every four weights that meet one output, two are zero, which sparse tensor cores skip.

Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021. The four lie along the input channels, at one place of the kernel: the K
dimension of the matrix product that TensorRT makes of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segc.core.errors import UserError

GROUP, KEPT = 4, 2
REASON_CHANNELS = f"its {{channels}} input channels are not divisible by {GROUP}"
REASON_GROUPS = "a grouped convolution reads few channels an output"
REASON_TRANSPOSED = "a transposed convolution: its input channels are not along one axis of the product"
REASON_KEPT = "kept by name"


@dataclass(frozen=True)
class SparsePlan:
    """tensors: names of the weights that become 2:4. dense: module -> why its weight does not."""

    tensors: list[str]
    dense: dict[str, str]


def plan_sparsity(model: nn.Module, keep: Iterable[nn.Module] = ()) -> SparsePlan:
    """Which weights of a network can be 2:4: those of convolutions, linear layers and torch's attention.

    Args:
        keep: modules that stay dense.
    """
    kept = set(keep)
    plan = SparsePlan([], {})
    for name, module in model.named_modules():
        weight = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.MultiheadAttention) or getattr(module, weight) is None:
            continue
        reason = REASON_KEPT if module in kept else _why_dense(module, getattr(module, weight))
        if reason:
            plan.dense[name] = reason
        else:
            plan.tensors.append(f"{name}.{weight}")
    return plan


def _why_dense(module: nn.Module, weight: Tensor) -> str:
    if isinstance(module, nn.ConvTranspose2d):
        return REASON_TRANSPOSED
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return REASON_GROUPS
    return REASON_CHANNELS.format(channels=weight.shape[1]) if weight.shape[1] % GROUP else ""


def two_of_four(weight: Tensor) -> Tensor:
    """True for the two largest magnitudes of every four input channels: a mask like (O, C, ...), C divisible by four.

    Where magnitudes are equal, the first channels stay.
    """
    fours = weight.detach().abs().movedim(1, -1).unflatten(-1, (-1, GROUP))
    order = torch.sort(fours, dim=-1, descending=True, stable=True).indices
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, order[..., :KEPT], True)
    return mask.flatten(-2).movedim(-1, 1)


def is_two_of_four(weight: Tensor) -> bool:
    """Whether every four input channels of a weight (O, C, ...) have at most two values that are not zero."""
    if weight.shape[1] % GROUP:
        return False
    fours = (weight != 0).movedim(1, -1).unflatten(-1, (-1, GROUP))
    return bool((fours.sum(-1) <= KEPT).all())


def masks_of(model: nn.Module, tensors: Iterable[str]) -> dict[str, Tensor]:
    """Name -> mask of each named weight, from its magnitudes now.

    Raises:
        UserError: the network has no such weight, or one whose channels are not divisible by four.
    """
    parameters = dict(model.named_parameters())
    names = list(tensors)
    wrong = [name for name in names if name not in parameters or parameters[name].shape[1] % GROUP]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(names)} weights that shall be 2:4 are not there or have other widths now ({', '.join(wrong[:3])}).",
            "The network was changed after it was made sparse: segc prune CHECKPOINT --sparsity 2:4",
        )
    return {name: two_of_four(parameters[name]) for name in names}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the masked weights of a network to zero, in place."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)
