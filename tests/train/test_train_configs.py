"""Each config of this package builds its network for CamVid's classes and exports what its contract says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import segc.configs
from segc.export.exporter import export_network
from segc.models.contract import contract_from_config
from segc.models.deploy import DeployModule
from segc.models.network import load_network
from segc.runtime.bundle import read_manifest
from segc.train.trainer import prepare

FOLDER = Path(next(iter(segc.configs.__path__)))
CONFIGS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py") if path.parent.name not in ("_base_", FOLDER.name))
# From the papers' implementations: parameters in millions, without the auxiliary head; and the mark of each network.
KNOWN = {
    "deeplabv3plus/deeplabv3plus_r50_camvid.py": 41.2,
    "quickstart/quickstart.py": 3.05,
    "segformer/segformer_b0_camvid.py": 3.72,
}


def test_no_config_is_forgotten() -> None:
    assert sorted(KNOWN) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_has_camvids_classes_and_no_synchronised_norm(name: str, street: Path) -> None:
    roots = {f"{split}_dataloader.dataset.root": str(street) for split in ("train", "val", "test")}
    network = load_network(f"segc::{name}", None, random_weights=True, overrides=roots)
    size = sum(part.numel() for key, part in network.model.named_parameters() if not key.startswith("auxiliary"))
    assert size / 1e6 == pytest.approx(KNOWN[name], rel=0.01)
    assert (len(network.classes), network.classes[3]) == (11, "road")
    assert "SyncBN" not in network.cfg.pretty_text
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=(512, 512))
    assert (contract.height, contract.width, contract.mean[0], contract.inference.mode) == (512, 512, 123.675, "whole")
    with torch.no_grad():
        found = DeployModule(network.model, contract)(torch.zeros(1, 512, 512, 3, dtype=torch.uint8))
    assert tuple(found.shape)[:1] == (1,) and set(np.unique(found)) <= set(range(11))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_can_be_trained_without_a_download(name: str, street: Path, tmp_path: Path) -> None:
    from segc.models.config import load_config
    from segc.train.trainer import _build

    roots = {f"{split}_dataloader.dataset.root": str(street) for split in ("train", "val", "test")}
    text = load_config(f"segc::{name}", roots).pretty_text
    assert "http" not in text and "open-mmlab" not in text
    small = {**roots, "train_dataloader.batch_size": 2, "train_cfg.max_iters": 1}
    runner = _build(prepare(load_config(f"segc::{name}", small), tmp_path))
    batch = next(iter(runner.train_dataloader))
    assert batch["inputs"][0].shape == (3, 240, 320)
