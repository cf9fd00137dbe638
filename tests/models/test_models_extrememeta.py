"""ExtremeC3Net against what the official module gave for the same weights; the large-kernel stem against its own fused form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from segc.core.errors import UserError
from segc.models.extrememeta.backbone import ExtremeC3Net
from segc.models.extrememeta.convert import from_official
from segc.models.extrememeta.stem import LargeKernelStem
from segc.models.network import build_model, load_config
from tests.models.seeded import fill

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = Path(__file__).parent / "data"


def _network(**head: int) -> nn.Module:
    overrides = {f"model.decode_head.{key}": value for key, value in head.items()}
    return build_model(load_config(CONFIGS / "_base_/extremec3.py", overrides))


@pytest.mark.parametrize(("channels", "parameters"), [(1, 37_738), (2, 37_762)])
def test_parameters_are_as_published(channels: int, parameters: int) -> None:
    assert sum(p.numel() for p in _network(out_channels=channels).parameters()) == parameters


def test_logits_equal_the_official_code() -> None:
    network = _network()
    fill(network.state_dict(), 1)
    with torch.no_grad():
        logits = network.decode_head(network.backbone(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))))
    resized = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=True)
    assert float((resized - load_file(DATA / "extremec3_logits.safetensors")["logits_64x96"]).abs().max()) < 1e-5


def test_the_official_checkpoint_fits_without_a_gap() -> None:
    network = _network()
    shapes = json.loads(gzip.decompress((DATA / "extremec3_keys.json.gz").read_bytes()))
    state = from_official({name: torch.zeros(shape) for name, shape in shapes.items()})
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in network.state_dict().items()}
    assert from_official(state).keys() == state.keys()


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (35, 38)])
@pytest.mark.parametrize("kernels", [None, (7, 3)])
def test_images_of_any_size(size: tuple[int, int], kernels: tuple[int, ...] | None) -> None:
    with torch.no_grad():
        (features,) = ExtremeC3Net(stem_kernels=kernels).eval()(torch.randn(2, 3, *size))
    assert features.shape == (2, 24, (size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize("kernels", [(3,), (7, 5, 3), (31, 15, 3)])
@pytest.mark.parametrize("size", [(40, 37), (9, 12)])
def test_the_fused_stem_is_the_sum_of_its_paths(kernels: tuple[int, ...], size: tuple[int, int]) -> None:
    stem = LargeKernelStem(3, 24, kernels).eval()
    fill(stem.state_dict(), 1)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        fused, parallel = stem(x), stem.act(sum(path(x) for path in stem.paths))
    assert torch.allclose(fused, parallel, atol=1e-5)
    assert stem.kernel()[0].shape == (24, 3, max(kernels), max(kernels))


def test_the_trained_stem_runs_its_paths_and_trains_each() -> None:
    stem = LargeKernelStem(3, 24, (7, 3)).train()
    stem(torch.randn(4, 3, 16, 16)).square().mean().backward()
    assert [name for name, p in stem.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert all(path.bn.num_batches_tracked == 1 for path in stem.paths)


@pytest.mark.parametrize("kernels", [(), (7, 4)])
def test_wrong_kernels_are_refused(kernels: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="one or more odd sizes"):
        LargeKernelStem(3, 24, kernels)


def test_the_portrait_config_divides_by_255_as_the_published_weights_expect() -> None:
    preprocessor = build_model(load_config(CONFIGS / "extrememeta/extremec3_portrait.py")).data_preprocessor
    assert not preprocessor._channel_conversion
    assert preprocessor.std.flatten().tolist() == pytest.approx([63.97182 * 255, 65.1337 * 255, 68.29726 * 255])


@pytest.mark.parametrize(("name", "kernels"), [("extremec3", None), ("extrememeta_k15", (15, 7, 3)), ("extrememeta_k31", (31, 15, 7, 3))])
def test_configs_build(name: str, kernels: tuple[int, ...] | None) -> None:
    cfg = load_config(CONFIGS / f"extrememeta/{name}_camvid.py")
    assert cfg.model.backbone.get("stem_kernels") == kernels
    assert build_model(cfg).decode_head.out_channels == 11
