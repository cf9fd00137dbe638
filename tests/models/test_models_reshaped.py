"""A pruned network's config: its shapes are checked, its modules know their widths, and it stays a config of mmseg."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from segc.core.errors import UserError
from segc.models.config import load_config
from segc.models.network import build_model
from segc.models.reshaped import changed_shapes, reshape, reshaped_config

QUICKSTART = "segc::quickstart/quickstart.py"


def _modules() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "plain": nn.Conv2d(8, 12, 3),
            "depthwise": nn.Conv2d(8, 16, 3, groups=8),
            "grouped": nn.Conv2d(8, 12, 3, groups=4),
            "transposed": nn.ConvTranspose2d(8, 12, 3),
            "linear": nn.Linear(8, 12),
            "batch": nn.BatchNorm2d(8),
            "layer": nn.LayerNorm(8),
            "blocks": nn.GroupNorm(4, 8),
        }
    )


SHAPES = {
    "plain.weight": [5, 6, 3, 3], "plain.bias": [5], "depthwise.weight": [6, 1, 3, 3], "depthwise.bias": [6],
    "grouped.weight": [8, 1, 3, 3], "grouped.bias": [8], "transposed.weight": [3, 4, 3, 3], "transposed.bias": [4],
    "linear.weight": [5, 6], "linear.bias": [5], "batch.weight": [3], "batch.bias": [3], "batch.running_mean": [3],
    "batch.running_var": [3], "layer.weight": [3], "layer.bias": [3], "blocks.weight": [4], "blocks.bias": [4],
}  # fmt: skip


def test_modules_run_at_and_tell_their_new_widths() -> None:
    model = _modules().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reshape(model, SHAPES)
    for name, (inputs, outputs) in {"plain": (6, 5), "depthwise": (3, 6), "grouped": (4, 8), "transposed": (3, 4)}.items():
        assert model[name](torch.rand(2, inputs, 5, 5)).shape[1] == outputs
        assert (model[name].in_channels, model[name].out_channels) == (inputs, outputs)
    assert model["linear"](torch.rand(2, 6)).shape[1] == model["linear"].out_features == 5 and model["linear"].in_features == 6
    assert model["batch"](torch.rand(2, 3, 4, 4)).shape[1] == 3 and model["layer"](torch.rand(2, 3)).shape[1] == 3
    assert model["blocks"](torch.rand(2, 4, 4, 4)).shape[1] == 4
    after = model.state_dict()
    assert changed_shapes(before, after) == SHAPES
    assert all(torch.equal(after[name], before[name][tuple(slice(size) for size in shape)]) for name, shape in SHAPES.items())
    assert after["batch.num_batches_tracked"].shape == ()


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("plain.wieght", [5, 6, 3, 3], "Did you mean 'plain.weight'?"),
        ("plain.weight", [5, 6], r"between 1 and those of \[12, 8, 3, 3\]"),
        ("plain.weight", [13, 8, 3, 3], "between 1"),
        ("plain.weight", [0, 8, 3, 3], "between 1"),
        ("plain.weight", [-1, 8, 3, 3], "between 1"),
        ("plain.weight", [True, 8, 3, 3], "between 1"),
        ("plain.weight", [2.5, 8, 3, 3], "between 1"),
        ("plain.weight", "abcd", "between 1"),
        ("__class__", [1], "does not have"),
        ("", [1], "does not have"),
    ],
)
def test_wrong_shapes_are_told(name: str, shape: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        reshape(_modules(), {name: shape})


def test_a_config_is_pruned_twice_and_asks_for_no_download() -> None:
    cfg = load_config(QUICKSTART)
    cfg.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "https://example.org/x.pth"}
    once = reshaped_config(cfg, {"backbone.stem.0.weight": [8, 3, 3, 3]}, separate_attention=False)
    twice = reshaped_config(once, {"backbone.stem.1.weight": [8]}, separate_attention=True)
    assert cfg.model.type == "EncoderDecoder", "the given config is not changed"
    assert (twice.model.type, twice.model.network, twice.model.separate_attention) == ("Reshaped", "EncoderDecoder", True)
    assert twice.model.shapes == {"backbone.stem.0.weight": [8, 3, 3, 3], "backbone.stem.1.weight": [8]}
    assert twice.model.backbone.init_cfg is None and twice.model.decode_head == cfg.model.decode_head


def test_an_unknown_network_type_is_told() -> None:
    model = {"type": "Reshaped", "network": "EncoderDecodr", "shapes": {}}
    with pytest.raises(UserError, match="EncoderDecodr"):
        build_model(Config({"model": model}))
