"""Attention in separate projections gives what torch's fused module gives, and is put back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segc.models.network import load_network
from segc.models.surgery import SeparateAttention, join_attention, separate_attention

SEGFORMER = "segc::segformer/segformer_b0_camvid.py"


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def _attention(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(24, 4, **options).eval()  # type: ignore[arg-type]
    for name, parameter in attention.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return attention


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 20, "vdim": 16}], ids=str)
@pytest.mark.parametrize("mask", ["none", "bool", "float", "per head", "padding", "both"])
def test_equal_to_torch(options: dict[str, int], mask: str) -> None:
    attention = _attention(**options)
    query = torch.rand(2, 7, 24)
    key, value = torch.rand(2, 5, options.get("kdim", 24)), torch.rand(2, 5, options.get("vdim", 24))
    if not options.get("batch_first"):
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    blocked = torch.rand(7, 5) < 0.4
    blocked[:, 0] = False
    late = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    masks: dict[str, dict[str, Tensor]] = {
        "none": {},
        "bool": {"attn_mask": blocked},
        "float": {"attn_mask": torch.randn(7, 5)},
        "per head": {"attn_mask": torch.randn(8, 7, 5)},
        "padding": {"key_padding_mask": late},
        "both": {"attn_mask": blocked, "key_padding_mask": late},
    }
    _close(SeparateAttention(attention)(query, key, value, **masks[mask])[0], attention(query, key, value, **masks[mask])[0])


def test_segformer_keeps_its_logits_and_is_restored() -> None:
    model = load_network(SEGFORMER, None, random_weights=True).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(images, mode="tensor")
        replaced = separate_attention(model)
        assert len(replaced) == 8 and not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
        assert (model(images, mode="tensor") - expected).abs().max() <= 1e-5
        assert join_attention(model) == replaced
        assert torch.equal(model(images, mode="tensor"), expected)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_gradients_and_dropout_reach_the_projections() -> None:
    attention = _attention(dropout=0.5).train()
    separate = SeparateAttention(attention)
    x = torch.rand(3, 2, 24)
    assert not torch.equal(separate(x, x, x)[0], separate(x, x, x)[0]), "dropout is on in training"
    attention.eval(), separate.eval()
    for module in (attention, separate):
        module(x, x, x)[0].square().sum().backward()
    for part, layer in zip(attention.in_proj_weight.grad.chunk(3), (separate.q_proj, separate.k_proj, separate.v_proj), strict=True):
        _close(layer.weight.grad, part)


def test_what_cannot_be_the_same_is_left_alone() -> None:
    model = nn.ModuleDict({"appends": _attention(add_bias_kv=True), "plain": _attention()})
    assert separate_attention(model) == ["plain"]
    pruned: SeparateAttention = model["plain"]  # type: ignore[assignment]
    narrow = copy.deepcopy(pruned)
    narrow.v_proj = nn.Linear(24, 12)
    model["narrow"] = narrow
    assert join_attention(model) == ["plain"]
    assert isinstance(model["narrow"], SeparateAttention)
