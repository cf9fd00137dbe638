"""AFFormer against what the official modules gave for the same weights, and against the published counts."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.afformer.backbone import VARIANTS, AFFormer
from segc.models.afformer.convert import from_official
from segc.models.complexity import complexity
from segc.models.network import build_model, load_config
from tests.models.seeded import fill

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
# Millions of the official modules with 150 classes, less the 66,048 values of a layer that they never use.
MILLIONS = {"tiny": 2.193354 - 0.066048, "small": 2.389154 - 0.066048, "base": 3.003954 - 0.066048}


def _network(arch: str, dataset: str = "ade20k", **head: int) -> nn.Module:
    overrides = {f"model.decode_head.{key}": value for key, value in head.items()}
    return build_model(load_config(ROOT / f"configs/afformer/afformer_{arch}_{dataset}.py", overrides))


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.decode_head(network.backbone(images))


def _official_state() -> dict[str, Tensor]:
    """Names and shapes of the official tiny network's state dict; shared layers hold the same tensor."""
    shapes = json.loads(gzip.decompress((DATA / "afformer_tiny_150_keys.json.gz").read_bytes()))
    return {name: torch.full(shape, math.prod(shape) % 97 / 97) for name, shape in shapes.items()}


@pytest.mark.parametrize("arch", VARIANTS)
def test_parameters_are_as_published(arch: str) -> None:
    assert sum(p.numel() for p in _network(arch).parameters()) / 1e6 == pytest.approx(MILLIONS[arch], abs=1e-9)


@pytest.mark.parametrize("size", [(72, 104), (97, 45)])
@pytest.mark.parametrize("arch", VARIANTS)
def test_logits_equal_the_official_code(arch: str, size: tuple[int, int]) -> None:
    network = _network(arch, num_classes=7)
    state = {
        f"{part}.{name}": tensor for part in ("backbone", "decode_head") for name, tensor in getattr(network, part).state_dict().items()
    }
    fill(state, 1)
    logits = _logits(network, torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3)))
    expected = load_file(DATA / "afformer_logits.safetensors")[f"{arch}_{size[0]}x{size[1]}"]
    assert float((logits - expected).abs().max()) < 1e-5


def test_the_official_checkpoint_fits_without_a_gap() -> None:
    network = _network("tiny")
    converted, own = from_official(_official_state()), network.state_dict()
    assert {name: tensor.shape for name, tensor in converted.items()} == {name: tensor.shape for name, tensor in own.items()}
    network.load_state_dict(converted)
    assert from_official(own).keys() == own.keys()


def test_an_imagenet_file_becomes_the_backbone() -> None:
    state = {name.removeprefix("backbone."): tensor for name, tensor in _official_state().items() if name.startswith("backbone.")}
    converted = from_official({**state, "cls_head.cls.weight": torch.zeros(1000, 216)})
    assert converted.keys() == {name for name in _network("tiny").state_dict() if name.startswith("backbone.")}


def test_a_shared_layer_that_differs_is_refused() -> None:
    state = _official_state()
    name = "backbone.mhca_stages.2.mhca_blks.0.MHCA_layers.3.factoratt_crpe.crpe.conv_list.1.weight"
    state[name] = state[name] + 1
    with pytest.raises(UserError, match=r"MHCA_layers\.3.*conv_list\.1\.weight differs from .*mhca_blks\.0\.crpe\.conv_list"):
        from_official(state)


@pytest.mark.parametrize(("dataset", "classes", "crop", "rate", "batch"), [
    ("ade20k", 150, 512, 3e-4, 8), ("cityscapes", 19, 1024, 4e-4, 4), ("cocostuff164k", 171, 512, 3e-4, 8)
])  # fmt: skip
@pytest.mark.parametrize("arch", VARIANTS)
def test_configs_say_what_was_published(arch: str, dataset: str, classes: int, crop: int, rate: float, batch: int) -> None:
    cfg = load_config(ROOT / f"configs/afformer/afformer_{arch}_{dataset}.py")
    assert (cfg.model.backbone.arch, cfg.model.decode_head.num_classes) == (arch, classes)
    assert tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.paramwise_cfg, cfg.train_dataloader.batch_size) == (rate, None, batch)
    assert ("ResizeToMultiple" in [step["type"] for step in cfg.test_dataloader.dataset.pipeline]) == (dataset != "cityscapes")


@pytest.mark.parametrize(("dataset", "size", "published"), [("ade20k", (512, 512), 4.6e9), ("cityscapes", (1024, 2048), 34.4e9)])
def test_operations_are_as_published(dataset: str, size: tuple[int, int], published: float) -> None:
    assert complexity(_network("base", dataset), size).macs == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 32)])
def test_strides_of_images_of_any_size(size: tuple[int, int]) -> None:
    maps = AFFormer("tiny").eval()(torch.zeros(2, 3, *size))
    fine, coarse = (tuple(math.ceil(side / stride) for side in size) for stride in (4, 8))
    assert [tuple(m.shape) for m in maps] == [(2, 64, *fine), (2, 160, *coarse), (2, 216, *coarse), (2, 216, *coarse)]


def test_every_part_is_trained() -> None:
    network = _network("tiny", num_classes=3)
    fill(network.state_dict(), 1)
    network.decode_head(network.backbone(torch.randn(1, 3, 64, 64))).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_widths_of_a_pruned_network_are_taken() -> None:
    hidden = [[100, 90], [120, 130, 140, 150], [200, 210]]
    stages = AFFormer("tiny", hidden=hidden).mhca_stages[1:]
    assert [[layer.mlp.fc1.out_channels for layer in stage.mhca_blks[0].MHCA_layers] for stage in stages] == hidden


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'small'"):
        AFFormer("smal")
