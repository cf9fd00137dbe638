"""HetNet against what the official modules gave for the same weights; its loss and metrics against plain formulas."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from safetensors.torch import load_file
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.hetnet.backbone import MultiScalePreProcessor
from segc.models.hetnet.convert import from_official
from segc.models.hetnet.head import HetNetHead
from segc.models.hetnet.layers import CoordinateGate, PyramidPooling, resize
from segc.models.hetnet.loss import StructureLoss
from segc.models.hetnet.metric import MirrorMetric, mask_iou
from segc.models.network import build_model, load_config
from tests.models.seeded import fill

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
# Parameters of the official modules (49.92 M published), less three convolutions that they never run.
PARAMETERS = 49_920_406 - 328_064


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build_model(load_config(ROOT / "configs/hetnet/hetnet_msd.py"))
    fill(model.state_dict(), 1)
    return model


def test_parameters_are_as_published(network: nn.Module) -> None:
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS


@pytest.mark.parametrize(("name", "largest", "mean", "epoch"), [("msd", 352, 136.67972, 3063), ("pmd", 416, 129.81274, 5095)])
def test_configs_say_what_was_published(name: str, largest: int, mean: float, epoch: int) -> None:
    cfg = load_config(ROOT / f"configs/hetnet/hetnet_{name}.py")
    preprocessor, optimizer = cfg.model.data_preprocessor, cfg.optim_wrapper.optimizer
    assert (max(preprocessor.sizes), len(preprocessor.sizes), preprocessor.mean[0]) == (largest, 5, mean)
    assert [step["scale"] for step in cfg.train_dataloader.dataset.pipeline if "scale" in step] == [(largest, largest)]
    assert [step["scale"] for step in cfg.test_dataloader.dataset.pipeline if "scale" in step] == [(352, 352)]
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.01, 0.9, True, 5e-4)
    assert cfg.train_cfg.max_iters == 150 * -(-epoch // cfg.train_dataloader.batch_size)
    assert [step.end for step in cfg.param_scheduler] == [cfg.train_cfg.max_iters // 2, cfg.train_cfg.max_iters]


def test_outputs_equal_the_official_code(network: nn.Module) -> None:
    """In training mode: batch statistics keep the image's signal alive through a hundred random layers."""
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    head = network.train().decode_head
    with torch.no_grad():
        logits = [
            layer(x) for layer, x in zip([head.conv_seg, head.edge, *head.coarser], head._fuse(network.backbone(images)), strict=True)
        ]
    network.eval().load_state_dict(kept)
    expected = load_file(DATA / "hetnet_outputs.safetensors")
    for index, logit in enumerate(logits):
        assert float((resize(logit, (64, 96))[..., ::4, ::4] - expected[f"output_{index}"]).abs().max()) < 5e-5


@pytest.mark.parametrize("size", [(50, 71), (33, 32)])
def test_images_of_any_size(network: nn.Module, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = network.decode_head(network.backbone(torch.randn(1, 3, *size)))
    assert logits.shape == (1, 1, (size[0] + 1) // 2, (size[1] + 1) // 2)


def test_the_official_checkpoint_fits_without_a_gap(network: nn.Module) -> None:
    shapes = json.loads(gzip.decompress((DATA / "hetnet_keys.json.gz").read_bytes()))
    state = from_official({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert {name: t.shape for name, t in state.items()} == {name: t.shape for name, t in network.state_dict().items()}
    assert from_official(state).keys() == state.keys()


def test_a_turned_gate_is_the_gate_of_the_turned_map() -> None:
    upright, turned = CoordinateGate(16).eval(), CoordinateGate(16, turned=True).eval()
    fill(upright.state_dict(), 1)
    turned.load_state_dict(upright.state_dict())
    x = torch.randn(2, 16, 5, 9)
    assert torch.allclose(turned(x), torch.rot90(upright(torch.rot90(x, 1, [2, 3])), -1, [2, 3]), atol=1e-6)
    assert not torch.allclose(turned(x), upright(x), atol=1e-3)


def test_pyramid_pooling_is_torchs() -> None:
    module = PyramidPooling(8, 4).eval()
    fill(module.state_dict(), 1)
    x = torch.randn(1, 8, 11, 7)
    pooled = [F.interpolate(conv(F.adaptive_avg_pool2d(x, bins)), (11, 7)) for bins, conv in zip((1, 2, 3, 6), module.convs, strict=True)]
    assert torch.allclose(module(x), module.out(torch.cat([x, *pooled], 1)), atol=1e-5)


def test_two_output_channels_are_refused() -> None:
    with pytest.raises(UserError, match="num_classes=2 and out_channels=2"):
        HetNetHead(in_channels=[64, 256, 512, 1024, 2048], in_index=[0, 1, 2, 3, 4], channels=64, num_classes=2, out_channels=2)


def _structure_loss(logits: Tensor, mask: Tensor, weighted: bool) -> float:
    """The formula, pixel by pixel; the window's mean counts zeros outside."""
    padded = F.pad(mask, (15, 15, 15, 15))
    around = torch.stack([padded[..., y : y + 31, x : x + 31].mean((2, 3)) for y in range(mask.shape[2]) for x in range(mask.shape[3])], -1)
    weight = 1 + 5 * (around.view_as(mask) - mask).abs()
    p = logits.sigmoid()
    entropy = -(mask * p.log() + (1 - mask) * (1 - p).log())
    total = (weight * entropy).sum((2, 3)) / weight.sum((2, 3)) if weighted else entropy.mean()
    common, both = (weight * p * mask).sum((2, 3)), (weight * (p + mask)).sum((2, 3))
    return float((total + 1 - (common + 1) / (both - common + 1)).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_structure_loss_is_its_formula(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 1, 12, 9, generator=generator), (torch.rand(2, 1, 12, 9, generator=generator) > 0.6).float()
    assert float(StructureLoss(weighted)(logits, mask)) == pytest.approx(_structure_loss(logits, mask, weighted), rel=1e-5)


def test_torch_takes_the_published_reduce_argument_for_the_mean() -> None:
    logits, mask = torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = F.binary_cross_entropy_with_logits(logits, mask, reduce="none")  # type: ignore[arg-type]
    assert published.dim() == 0


def _sample(mask: Tensor, edge: Tensor) -> SegDataSample:
    sample = SegDataSample()
    sample.gt_sem_seg, sample.gt_edge_map = PixelData(data=mask[None]), PixelData(data=edge[None])
    return sample


def test_the_losses_are_weighed_and_train_every_part(network: nn.Module) -> None:
    mask = torch.zeros(48, 64, dtype=torch.uint8)
    mask[10:30, 20:50] = 1
    samples = [_sample(mask, mask.roll(3, 0) ^ mask), _sample(1 - mask, mask)]
    head, maps = network.decode_head, network.train().backbone(torch.randn(2, 3, 48, 64))
    losses = head.loss(maps, samples, None)
    sum(losses.values()).backward()
    network.eval()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A gate's bias before a batch norm changes nothing.
    assert [name for name in idle if not name.endswith("conv1.conv.bias")] == []
    assert list(losses) == ["loss_mask", "loss_edge", "loss_mask_1", "loss_mask_2", "loss_mask_3", "loss_mask_4"]
    with torch.no_grad():
        head.coarser[2].weight.zero_(), head.coarser[2].bias.zero_()
        flat = head.loss(maps, samples, None)["loss_mask_3"]
        truth = torch.stack([mask, 1 - mask])[:, None].float()
    assert float(flat) == pytest.approx(_structure_loss(torch.zeros_like(truth), truth, False) / 8, rel=1e-4)


def _scores(pictures: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, float]:
    """The published evaluation with its loop over thresholds, on pictures of 8 bits."""
    curves, maes = [], []
    for picture, truth in zip(pictures, truths, strict=True):
        spread = (picture.astype(np.float32) - picture.min()) / (picture.max() - picture.min())
        maes.append(np.abs(spread - truth).mean())
        grey = (255 * spread).astype(np.uint8) / 255
        found = [grey > level / 255 for level in range(256)]
        hits = np.array([(hard & truth).sum() for hard in found])
        curves.append([(hits + 1e-4) / (np.array([hard.sum() for hard in found]) + 1e-4), (hits + 1e-4) / (truth.sum() + 1e-4)])
    precision, recall = np.mean(curves, 0)
    ious = [((p >= 127.5) & t).sum() / ((p >= 127.5) | t).sum() for p, t in zip(pictures, truths, strict=True)]
    hard = [picture >= 127.5 for picture in pictures]
    accuracies = [(h == t).mean() for h, t in zip(hard, truths, strict=True)]
    bers = [1 - ((h & t).sum() / t.sum() + (~h & ~t).sum() / (~t).sum()) / 2 for h, t in zip(hard, truths, strict=True)]
    best = np.max(1.3 * precision * recall / (0.3 * precision + recall))
    return {"IoU": np.mean(ious), "accuracy": np.mean(accuracies), "BER": np.mean(bers), "F-beta": best, "MAE": np.mean(maes)}


def test_the_metric_is_the_published_evaluation() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(low, high, (20, 30)).astype(np.uint8) for low, high in ((0, 256), (30, 200), (120, 140))]
    truths = [picture + rng.normal(0, 60, picture.shape) > 128 for picture in pictures]
    metric = MirrorMetric()
    for picture, truth in zip(pictures, truths, strict=True):
        shown = {
            "seg_logits": {"data": torch.from_numpy(picture)[None] / 255},
            "gt_sem_seg": {"data": torch.from_numpy(truth)[None].long()},
        }
        metric.process(None, [shown])
    assert metric.compute_metrics(metric.results) == pytest.approx(_scores(pictures, truths), rel=1e-5)


def test_empty_masks_and_flat_pictures_have_scores() -> None:
    empty = np.zeros((4, 4), bool)
    assert (mask_iou(empty, empty), mask_iou(empty, ~empty)) == (1.0, 0.0)
    metric = MirrorMetric()
    metric.process(None, [{"seg_logits": {"data": torch.full((1, 4, 4), 0.5)}, "gt_sem_seg": {"data": torch.ones(1, 4, 4)}}])
    recall = 1e-4 / (16 + 1e-4)  # nothing lies above the flat level; precision is 1e-4 / 1e-4
    expected = {"IoU": 1.0, "accuracy": 1.0, "BER": 0.0, "F-beta": 1.3 * recall / (0.3 + recall), "MAE": 1.0}
    assert metric.compute_metrics(metric.results) == pytest.approx(expected)


def test_the_metric_refuses_two_channels() -> None:
    with pytest.raises(UserError, match="got 2 channels"):
        MirrorMetric().process(None, [{"seg_logits": {"data": torch.zeros(2, 4, 4)}, "gt_sem_seg": {"data": torch.zeros(1, 4, 4)}}])


def test_training_batches_change_their_size() -> None:
    preprocessor = MultiScalePreProcessor(sizes=[24], size=(16, 16), mean=[0.0] * 3, std=[1.0] * 3)
    mask = (torch.arange(256).view(16, 16) % 3 == 0).to(torch.uint8)
    batch = {"inputs": [torch.ones(3, 16, 16)], "data_samples": [_sample(mask, 1 - mask)]}
    batch["data_samples"][0].set_metainfo({"img_shape": (16, 16)})
    trained = preprocessor(batch, training=True)
    assert trained["inputs"].shape == (1, 3, 24, 24)
    (sample,) = trained["data_samples"]
    expected = F.interpolate(mask[None, None].float(), (24, 24))[0].to(torch.uint8)
    assert torch.equal(sample.gt_sem_seg.data, expected)
    assert torch.equal(sample.gt_edge_map.data, 1 - expected)
    assert preprocessor({"inputs": [torch.ones(3, 16, 16)]}, training=False)["inputs"].shape == (1, 3, 16, 16)
