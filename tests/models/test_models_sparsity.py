"""2:4 masks against a loop over groups of four, and which layers can have one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segc.core.errors import UserError
from segc.models.sparsity import (
    REASON_GROUPS,
    REASON_KEPT,
    REASON_TRANSPOSED,
    apply_masks,
    is_two_of_four,
    masks_of,
    plan_sparsity,
    two_of_four,
)


@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(3, 4), (2, 8, 1, 1), (5, 12, 3, 3), (1, 4, 1, 5)]), seed=st.integers(0, 999), levels=st.integers(1, 9))
def test_the_mask_keeps_the_two_largest_of_every_four(shape: tuple[int, ...], seed: int, levels: int) -> None:
    weight = torch.randint(-levels, levels + 1, shape, generator=torch.Generator().manual_seed(seed)).float()
    mask = two_of_four(weight)
    for out, *where in itertools.product(range(shape[0]), *(range(size) for size in shape[2:])):
        for start in range(0, shape[1], 4):
            index = (out, slice(start, start + 4), *where)
            values, kept = weight[index].abs(), mask[index]
            assert kept.sum() == 2 and values[kept].min() >= values[~kept].max()
    assert is_two_of_four(weight * mask) and two_of_four(weight * mask)[(weight * mask) != 0].all()


def test_three_of_four_are_not_sparse() -> None:
    weight = torch.ones(1, 8, 1, 1)
    weight[0, [0, 1, 4, 5, 6]] = 0
    assert is_two_of_four(weight)
    weight[0, 0] = 1
    assert not is_two_of_four(weight) and not is_two_of_four(torch.zeros(4, 3))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)


def test_which_layers_are_sparse_and_why_not() -> None:
    model = Layers()
    plan = plan_sparsity(model, [model.head])
    assert plan.tensors == ["body.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert plan.dense == {
        "stem": "its 3 input channels are not divisible by 4",
        "depthwise": REASON_GROUPS,
        "up": REASON_TRANSPOSED,
        "head": REASON_KEPT,
    }
    before = model.stem.weight.detach().clone()
    apply_masks(model, masks_of(model, plan.tensors))
    assert all(is_two_of_four(model.get_parameter(name)) for name in plan.tensors) and torch.equal(model.stem.weight, before)


def test_weights_of_another_network_are_named() -> None:
    with pytest.raises(UserError, match=r"2 of 3 weights .* \(stem\.weight, gone\.weight\)"):
        masks_of(Layers(), ["body.weight", "stem.weight", "gone.weight"])
