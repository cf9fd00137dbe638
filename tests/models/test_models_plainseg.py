"""PlainSeg against what the official modules gave for the same weights; its counts, its learning rates, its graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segc.core.errors import UserError
from segc.models.network import build_model, load_config, load_network
from segc.models.plainseg.backbone import PlainBEiT
from segc.models.plainseg.head import PlainSegHead
from segc.models.plainseg.neck import SlimPyramid
from segc.models.plainseg.optimizer import PlainLayerDecay
from tests.models.exported import agreement
from tests.models.seeded import fill
from tests.models.trained import losses_of_training

DATA = Path(__file__).parent / "data"
# Millions of parameters of backbone and head, counted with the official modules at 640x640.
MILLIONS = {"plainseg_beit_b": (86.6, 18.7), "plainseg_beit_l": (305.5, 27.1)}
SMALL_BACKBONE = {"embed_dims": 32, "num_layers": 4, "num_heads": 2}
SMALL = {
    "plainseg_vit_b": {"decode_head.in_channels": 32, "decode_head.num_layers": 3, "backbone.out_indices": [3]},
    "plainseg_hier_vit_b": {
        "decode_head.in_channels": [8, 16, 32, 32],
        "decode_head.num_layers": 3,
        "backbone.out_indices": [0, 1, 2, 3],
        "neck.channels": 32,
    },
}


def _overrides(name: str) -> dict[str, Any]:
    head = {"decode_head.num_classes": 3, "decode_head.num_queries": 7, "decode_head.loss_decode.num_points": 256}
    small = {f"backbone.{key}": value for key, value in SMALL_BACKBONE.items()} | SMALL[name] | head
    return {f"model.{key}": value for key, value in small.items()} | {"model.test_cfg": {"mode": "whole"}}


def _config(name: str) -> str:
    return f"segc::plainseg/{name}_ade20k.py"


@pytest.mark.parametrize(("levels", "layers", "queries"), [(3, 6, 7), (4, 8, 9)])
def test_scores_equal_the_official_code(levels: int, layers: int, queries: int) -> None:
    head = PlainSegHead(32, 5, num_levels=levels, num_layers=layers, num_queries=queries, hidden=64).eval()
    fill(head.state_dict(), 1)
    x = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(3))
    official = load_file(DATA / "plainseg_outputs.safetensors")[f"plain_{levels}"]
    expected = nn.functional.interpolate(official, (64, 96), mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert float((head([x]) - expected).abs().max()) < 1e-5


def test_the_pyramid_equals_the_official_code() -> None:
    neck = SlimPyramid(32).eval()
    fill(neck.state_dict(), 1)
    maps = [torch.randn(1, 32, 2, 4, generator=torch.Generator().manual_seed(4 + index)) for index in range(4)]
    expected = load_file(DATA / "plainseg_outputs.safetensors")
    with torch.no_grad():
        found = neck(maps)
    assert [tuple(x.shape[1:]) for x in found] == [(8, 8, 16), (16, 4, 8), (32, 2, 4), (32, 1, 2)]
    assert all(float((x - expected[f"pyramid_{index}"]).abs().max()) < 1e-6 for index, x in enumerate(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", MILLIONS)
def test_counts_are_as_published(name: str) -> None:
    network = build_model(load_config(_config(name)))
    total, backbone = (sum(p.numel() for p in module.parameters()) / 1e6 for module in (network, network.backbone))
    assert (backbone, total - backbone) == pytest.approx(MILLIONS[name], abs=0.06)


@pytest.mark.parametrize("name", SMALL)
def test_training_lowers_the_loss_and_reaches_every_part(name: str) -> None:
    network = build_model(load_config(_config(name), _overrides(name))).train()
    torch.manual_seed(0)
    losses = losses_of_training(network, 1e-3, 8)
    assert losses[-1] < losses[0] / 2
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize("name", SMALL)
def test_the_exported_graph_gives_the_same_classes(name: str) -> None:
    network = load_network(_config(name), None, overrides=_overrides(name), random_weights=True, classes=list("abc"))
    assert agreement(network, (64, 96)) == 1.0


def test_sizes_that_the_backbones_cannot_take_are_refused() -> None:
    network = build_model(load_config(_config("plainseg_vit_b"), _overrides("plainseg_vit_b")))
    with pytest.raises(UserError, match="multiples of 16; this one is 60x64"):
        network(torch.zeros(1, 3, 60, 64))
    beit = PlainBEiT(img_size=(64, 64), **SMALL_BACKBONE)
    with pytest.raises(UserError, match="images of 64x64 only; this one is 64x96"):
        beit(torch.zeros(1, 3, 64, 96))


def test_pretrained_biases_are_resized_smoothly() -> None:
    """A table that is linear in the place, in steps that grow towards the border, stays linear; the same size stays as it is."""
    small, large = (PlainBEiT(img_size=(side, side), **SMALL_BACKBONE) for side in (224, 320))
    table = torch.arange(27.0).repeat_interleave(27)[:, None].expand(-1, 2) - 13
    found = large._geometric_sequence_interpolation(27, 39, table, 2).view(39, 39, 2)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-4)
    assert found[[0, 19, 38], 0, 0].tolist() == pytest.approx([-13, 0, 13], abs=0.02)
    assert (np.diff(found[:, 0, 0].numpy()) > 0).all()
    state = {f"layers.0.attn.{key}": value for key, value in small.layers[0].attn.state_dict().items()}
    resized = large.resize_rel_pos_embed({key: value + 1 for key, value in state.items() if "table" in key})
    assert resized["layers.0.attn.relative_position_bias_table"].shape == (39 * 39 + 3, 2)


def test_rates_fall_with_the_distance_from_the_head() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = PlainBEiT(img_size=(32, 32), **SMALL_BACKBONE)
            self.neck = SlimPyramid(32)
            self.decode_head = nn.Linear(2, 2)

    network = Network()
    settings = {"num_layers": 4, "decay_rate": 0.5, "head_mult": 10.0}
    wrapper = PlainLayerDecay({"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}}, settings)(network)
    groups = {id(parameter): group for group in wrapper.optimizer.param_groups for parameter in group["params"]}
    rates = {name: groups[id(parameter)]["lr"] for name, parameter in network.named_parameters()}
    wanted = {"cls_token": 1 / 32, "layers.0.gamma_1": 1 / 16, "layers.3.attn.qkv.weight": 1 / 2}
    assert {name: rates[f"backbone.{name}"] for name in wanted} == wanted
    assert (rates["neck.upsample_2x.0.weight"], rates["decode_head.bias"]) == (1.0, 10.0)
    assert all((groups[id(p)]["weight_decay"] == 0) == (p.dim() <= 1) for p in network.parameters())


# dataset -> classes, crop, stride of the windows, queries.
DATASETS = {"ade20k": (150, 640, 426, 100), "cityscapes": (19, 768, 512, 100), "cocostuff164k": (171, 640, 426, 200)}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", ["plainseg_beit_b", "plainseg_beit_l", "plainseg_hier_beit_b", "plainseg_hier_beit_l"])
def test_configs_say_what_was_published(name: str, dataset: str) -> None:
    cfg = load_config(f"segc::plainseg/{name}_{dataset}.py")
    classes, crop, stride, queries = DATASETS[dataset]
    large, hier = name.endswith("_l"), "hier" in name
    head, wrapper = cfg.model.decode_head, cfg.optim_wrapper
    assert (head.num_classes, head.num_queries, tuple(cfg.model.backbone.img_size)) == (classes, queries, (crop, crop))
    assert cfg.model.test_cfg == {"mode": "slide", "crop_size": (crop, crop), "stride": (stride, stride)}
    random_crop = next(step for step in cfg.train_dataloader.dataset.pipeline if step["type"] == "RandomCrop")
    assert tuple(random_crop["crop_size"]) == tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    published = (2e-5, 0.95, 24) if large else (3e-5, 0.9, 12)
    assert (wrapper.optimizer.lr, wrapper.paramwise_cfg.decay_rate, wrapper.paramwise_cfg.num_layers) == published
    assert head.num_layers == ((6 if large and dataset == "ade20k" else 9) if hier else (8 if large else 6))
    assert cfg.train_cfg.max_iters == 80_000
