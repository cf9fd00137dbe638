"""The configs of our networks say what was published: widths, classes, crop, schedule, test mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import segc.configs
from segc.models.config import load_config
from segc.models.segman.encoder import VARIANTS

SEGMAN = Path(next(iter(segc.configs.__path__))) / "segman"
# dataset -> classes, crop, images a device of four.
DATASETS = {"ade20k": (150, 512, 4), "cityscapes": (19, 1024, 2), "cocostuff164k": (171, 512, 4)}
LETTERS = {"t": ("tiny", 128, 192), "s": ("small", 144, 288), "b": ("base", 180, 320), "l": ("large", 224, 432)}
NETWORKS = [(letter, dataset) for letter in LETTERS for dataset in DATASETS]


@pytest.fixture(params=NETWORKS, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, Any]:
    letter, dataset = request.param
    return letter, dataset, load_config(SEGMAN / f"segman_{letter}_{dataset}.py")


def test_widths_and_classes(case: tuple[str, str, Any]) -> None:
    letter, dataset, cfg = case
    arch, channels, projected = LETTERS[letter]
    head = cfg.model.decode_head
    assert cfg.model.backbone.arch == arch
    assert head.in_channels == list(VARIANTS[arch].dims)
    # Published only for Cityscapes-S: 152 channels in the decoder.
    assert (head.channels, head.feat_proj_dim) == (152 if (letter, dataset) == ("s", "cityscapes") else channels, projected)
    assert head.num_classes == DATASETS[dataset][0]


def test_training_and_test_mode(case: tuple[str, str, Any]) -> None:
    letter, dataset, cfg = case
    _, crop, batch = DATASETS[dataset]
    assert tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    random_crop = next(step for step in cfg.train_dataloader.dataset.pipeline if step["type"] == "RandomCrop")
    assert tuple(random_crop["crop_size"]) == (crop, crop)
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_iters) == (batch, 160_000)
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("AdamW", 6e-5)
    slides = dataset == "cityscapes" and letter != "l"
    assert cfg.model.test_cfg == ({"mode": "slide", "crop_size": (1024, 1024), "stride": (768, 768)} if slides else {"mode": "whole"})
    kinds = [step["type"] for step in cfg.test_dataloader.dataset.pipeline]
    assert ("ResizeToMultiple" in kinds) == (dataset != "cityscapes")
