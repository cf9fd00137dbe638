"""Mask2Former against what mmdet's and the authors' modules gave for the same weights, and its parts against independent references."""

from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.complexity import complexity
from segc.models.mask2former.attention import DeformableAttention, MaskedAttention, mask_bias
from segc.models.mask2former.convert import from_official
from segc.models.mask2former.pixel_decoder import DeformablePixelDecoder
from segc.models.network import build_model, load_config, load_network
from segc.models.published import convert
from tests.models.exported import agreement, run_at_any_size
from tests.models.seeded import fill
from tests.models.trained import losses_of_training

DATA = Path(__file__).parent / "data"
ADE20K = "mmseg::mask2former/mask2former_{}_ade20k-{}x{}.py"
R50 = ADE20K.format("r50_8xb2-160k", 512, 512)
SWIN_T = ADE20K.format("swin-t_8xb2-160k", 512, 512)
# Millions of parameters and billions of operations in the paper's table for ADE20K.
PUBLISHED = {
    R50: (44, 71),
    ADE20K.format("r101_8xb2-160k", 512, 512): (63, 90),
    SWIN_T: (47, 74),
    ADE20K.format("swin-s_8xb2-160k", 512, 512): (69, 98),
    ADE20K.format("swin-b-in22k-384x384-pre_8xb2-160k", 640, 640): (107, 223),
    ADE20K.format("swin-l-in22k-384x384-pre_8xb2-160k", 640, 640): (215, 403),
}
# A network that is small enough to train and export in a test: short, 7 queries, 3 classes.
SMALL = {
    "backbone.depth": 18,
    "decode_head.in_channels": [64, 128, 256, 512],
    "decode_head.num_classes": 3,
    "decode_head.num_queries": 7,
    "decode_head.pixel_decoder.encoder.num_layers": 1,
    "decode_head.transformer_decoder.num_layers": 2,
    "decode_head.train_cfg.num_points": 256,
}


def _network(config: str = R50, **changes: Any) -> nn.Module:
    return build_model(load_config(config, {f"model.{name}": value for name, value in changes.items()}))


def _published(name: str) -> dict[str, Tensor]:
    """Names and shapes of a published network's state dict, 150 classes."""
    shapes = json.loads(gzip.decompress((DATA / f"mask2former_{name}_keys.json.gz").read_bytes()))
    return {key: torch.full(shape, index % 97 / 97) for index, (key, shape) in enumerate(shapes.items())}


def _maps(size: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    strides = zip((8, 16, 24, 32), (4, 8, 16, 32), strict=True)
    return [torch.randn(2, width, *(math.ceil(side / stride) for side in size), generator=generator) for width, stride in strides]


@pytest.mark.parametrize("size", [(64, 96), (50, 75)])
def test_predictions_equal_mmdets(size: tuple[int, int]) -> None:
    changes = {"decode_head.in_channels": [8, 16, 24, 32], "decode_head.num_classes": 5, "decode_head.num_queries": 7}
    head = _network(**changes).decode_head
    fill(head.state_dict(), 1)
    with torch.no_grad():
        classes, masks = head.predictions(_maps(size))[-1]
        scores = head.predict(_maps(size), [{"img_shape": size, "pad_shape": size}], None)
    expected = load_file(DATA / "mask2former_outputs.safetensors")
    name = f"{size[0]}x{size[1]}"
    assert float((classes - expected[f"classes_{name}"]).abs().max()) < 1e-5
    assert float((masks - expected[f"masks_{name}"]).abs().max()) < 1e-5
    assert scores.shape == (2, 5, *size)
    if f"scores_{name}" in expected:
        assert float((scores[:1, :2] - expected[f"scores_{name}"]).abs().max()) < 1e-5


@pytest.mark.parametrize("config", [pytest.param(config, marks=pytest.mark.slow if "640" in config else ()) for config in PUBLISHED])
def test_counts_are_as_published(config: str) -> None:
    found = complexity(_network(config), load_config(config).crop_size)
    assert (found.parameters / 1e6, found.macs / 1e9) == pytest.approx(PUBLISHED[config], abs=0.56)


@pytest.mark.parametrize("sizes", [[(3, 4)], [(1, 1), (2, 3), (4, 6)]])
def test_deformable_attention_reads_between_pixels(sizes: list[tuple[int, int]]) -> None:
    attention = DeformableAttention(8, num_heads=2, num_levels=len(sizes), num_points=3)
    fill(attention.state_dict(), 1)
    length = sum(height * width for height, width in sizes)
    generator = torch.Generator().manual_seed(2)
    tokens, place, centres = (torch.randn(*shape, generator=generator) for shape in ((2, length, 8), (length, 8), (length, 2)))
    with torch.no_grad():
        found = attention(tokens, place, centres.sigmoid(), sizes)
        expected = attention.output_proj(_deformed_by_loops(attention, tokens, place, centres.sigmoid(), sizes))
    assert float((found - expected).abs().max()) < 1e-5


def _deformed_by_loops(
    attention: DeformableAttention, tokens: Tensor, place: Tensor, centres: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    heads, levels, points = attention.grid
    values = attention.value_proj(tokens)
    offsets = attention.sampling_offsets(tokens + place).view(*tokens.shape[:2], heads, levels, points, 2)
    weights = attention.attention_weights(tokens + place).view(*tokens.shape[:2], heads, -1).softmax(-1)
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    found = torch.zeros_like(tokens)
    for image, token, head, level, point in np.ndindex(*tokens.shape[:2], heads, levels, points):
        height, width = sizes[level]
        part = slice(head * 4, head * 4 + 4)
        pixels = values[image, starts[level] : starts[level + 1], part].view(height, width, 4)
        right = float(centres[token, 0] * width + offsets[image, token, head, level, point, 0]) - 0.5
        down = float(centres[token, 1] * height + offsets[image, token, head, level, point, 1]) - 0.5
        for row, column in np.ndindex(2, 2):
            y, x = math.floor(down) + row, math.floor(right) + column
            if 0 <= y < height and 0 <= x < width:
                share = (1 - abs(down - y)) * (1 - abs(right - x))
                found[image, token, part] += weights[image, token, head, level * points + point] * share * pixels[y, x]
    return found


def test_masked_attention_equals_torchs() -> None:
    attention = MaskedAttention(8, 2)
    fill(attention.state_dict(), 1)
    generator = torch.Generator().manual_seed(2)
    queries, place, keys, values, logits = (
        torch.randn(*shape, generator=generator) for shape in ((2, 5, 8), (5, 8), (2, 6, 8), (2, 6, 8), (2, 5, 6))
    )
    logits[0, 3] = -1.0
    hidden = (logits < 0) & ~(logits < 0).all(-1, keepdim=True)
    with torch.no_grad():
        found = attention(queries, place, keys, values, mask_bias(logits))
        expected = queries + attention.attn(queries + place, keys, values, attn_mask=hidden.repeat_interleave(2, 0))[0]
    assert float((found - expected).abs().max()) < 1e-6


@pytest.mark.parametrize(("published", "config"), [("r50_150", R50), ("r50_150_facebook", R50), ("swin_t_150_facebook", SWIN_T)])
def test_published_checkpoints_fit_without_a_gap(published: str, config: str, tmp_path: Path) -> None:
    state = _published(published)
    file = tmp_path / ("model.pkl" if "facebook" in published else "model.pth")
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in state.items()}, "__author__": "nobody"}))
    else:
        torch.save({"state_dict": state}, file)
    found = convert(config, file)
    assert found.differences == []
    assert found.loaded == len([name for name in state if not name.startswith("criterion.")])


def test_a_published_swin_joins_pixels_down_first_and_ours_right_first() -> None:
    """The merging layers of both, on the same map: the authors' four slices against mmseg's ``unfold``."""
    x = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    theirs = torch.cat([x[:, :, down::2, right::2] for right in (0, 1) for down in (0, 1)], 1)
    ours = from_official({"backbone.layers.0.downsample.reduction.weight": weight})["backbone.stages.0.downsample.reduction.weight"]
    joined = nn.functional.unfold(x, 2, stride=2).view(1, 12, 2, 3)
    expected, found = (torch.einsum("oc,nchw->nohw", w, y) for w, y in ((weight, theirs), (ours, joined)))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_checkpoint_of_another_backbone_or_data_set_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": _published("r50_150")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"weights of another network: \d+ missing, \d+ unexpected"):
        load_network(SWIN_T, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 of another shape .*cls_embed\.weight \(151, 256\) instead of \(20, 256\)"):
        load_network("mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py", tmp_path / "w.pth")


@pytest.mark.parametrize(("change", "message"), [
    ({"decode_head.pixel_decoder.type": "mmdet.PixelDecoder"}, "pixel_decoder.type='mmdet.PixelDecoder'; only 'mmdet.MSDeform"),
    ({"decode_head.loss_dice.loss_weight": 4.0}, r"matching cost mmdet.DiceCost weighs 5.0"),
    ({"decode_head.enforce_decoder_input_project": True}, "enforce_decoder_input_project=True; only False"),
    ({"decode_head.num_things": 3}, "num_things=3; this head does not know it"),
])  # fmt: skip
def test_configs_of_what_this_head_does_not_do_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _network(**change)


def test_training_lowers_the_loss_and_reaches_every_part() -> None:
    torch.manual_seed(0)
    network = _network(**SMALL).train()
    losses = losses_of_training(network, 3e-4, 8)
    assert losses[-1] < losses[0] / 2
    idle = [name for name, parameter in network.named_parameters() if parameter.requires_grad and not parameter.grad.any()]
    assert idle == []


def test_the_exported_graph_gives_the_same_classes() -> None:
    overrides = {f"model.{name}": value for name, value in SMALL.items()}
    assert agreement(load_network(R50, None, overrides=overrides, random_weights=True, classes=list("abc")), (64, 96)) == 1.0


class Encoded(nn.Module):
    """A map and its halves through the pixel decoder: the features of the masks."""

    def __init__(self) -> None:
        super().__init__()
        norm = {"type": "GN", "num_groups": 2}
        self.decoder = DeformablePixelDecoder([4] * 4, 8, 6, num_layers=1, num_heads=2, num_points=2, hidden=8, norm=norm)
        fill(self.state_dict(), 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder([x, *(F.avg_pool2d(x, side) for side in (2, 4, 8))])[0]


@pytest.mark.slow
def test_the_pixel_decoder_takes_any_size_in_a_graph() -> None:
    network = Encoded().eval()
    run = run_at_any_size(network, torch.randn(1, 4, 32, 48))
    for size in ((32, 48), (48, 16)):
        x = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            wanted = network(x).numpy()
        assert abs(run(x) - wanted).max() < 1e-5 * abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("config", [R50, SWIN_T])
def test_the_whole_network_is_exported_at_its_crop(config: str) -> None:
    assert agreement(load_network(config, None, random_weights=True), (512, 512)) >= 0.999


@pytest.mark.parametrize("backbone", ["r50", "r101", "swin_t", "swin_s", "swin_b", "swin_l"])
def test_the_configs_for_coco_stuff_repeat_the_recipe_of_ade20k(backbone: str) -> None:
    cfg = load_config(f"segc::mask2former/mask2former_{backbone}_cocostuff164k.py")
    ade20k = load_config(list(PUBLISHED)[["r50", "r101", "swin_t", "swin_s", "swin_b", "swin_l"].index(backbone)])
    assert cfg.model.decode_head.num_classes == 171
    assert cfg.train_dataloader.dataset.type == cfg.test_dataloader.dataset.type == "COCOStuffDataset"
    for name in ("train_cfg", "param_scheduler", "crop_size"):
        assert _plain(cfg[name]) == _plain(ade20k[name])
    assert cfg.train_dataloader.batch_size == ade20k.train_dataloader.batch_size
    assert _plain(cfg.train_dataloader.dataset.pipeline) == _plain(ade20k.train_dataloader.dataset.pipeline)
    assert cfg.optim_wrapper.optimizer == ade20k.optim_wrapper.optimizer
    rules, theirs = (config.optim_wrapper.paramwise_cfg.custom_keys for config in (cfg, ade20k))
    assert {name: rules.get(name) for name in theirs} == theirs
    shape = {name: value for name, value in cfg.model.backbone.items() if name != "init_cfg"}
    assert {name: ade20k.model.backbone.get(name) for name in shape} == shape


def _plain(value: Any) -> Any:
    """A config's value without what mmengine adds, and without ADE20K's shift of labels."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in ("_scope_", "reduce_zero_label")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
