"""Each config of this package builds its network for CamVid's classes and exports what its contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import segc.configs
from segc.export.exporter import export_network
from segc.models.config import load_config
from segc.models.contract import contract_from_config
from segc.models.network import load_network
from segc.train.trainer import build_runner, prepare

FOLDER = Path(next(iter(segc.configs.__path__)))
CONFIGS = ["quickstart/quickstart.py", *sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*_camvid.py"))]
# From the papers' implementations: parameters in millions, without the auxiliary head; and the mark of each network.
KNOWN = {
    "afformer/afformer_tiny_camvid.py": 2.09,
    "deeplabv3plus/deeplabv3plus_r50_camvid.py": 41.2,
    "extrememeta/extremec3_camvid.py": 0.0380,
    "extrememeta/extrememeta_k15_camvid.py": 0.0459,
    "extrememeta/extrememeta_k31_camvid.py": 0.0865,
    "quickstart/quickstart.py": 3.05,
    "segformer/segformer_b0_camvid.py": 3.72,
    "segman/segman_t_camvid.py": 6.38,
}


def test_no_config_is_forgotten() -> None:
    assert sorted(KNOWN) == sorted(CONFIGS)


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


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name.startswith("quick") else pytest.mark.slow) for name in CONFIGS])
def test_the_config_exports_its_contract(name: str, street: Path, tmp_path: Path) -> None:
    roots = {f"{split}_dataloader.dataset.root": str(street) for split in ("train", "val", "test")}
    size = (224, 256) if name.startswith("segman") else (64, 96)
    options: dict[str, Any] = {"input_size": size, "images": street / "images" / "val", "verify_images": 1, "random_weights": True}
    manifest = export_network(f"segc::{name}", None, tmp_path / "bundle", overrides=roots, **options)
    assert (manifest.contract.height, manifest.contract.width, len(manifest.contract.classes)) == (*size, 11)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / manifest.graphs["fp32"].file)
    found = session.run(None, {"images": np.zeros((1, *size, 3), np.uint8)})[0]
    assert found.size == size[0] * size[1] and found.max() < 11


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("deep") else []) for name in CONFIGS])
def test_the_config_can_be_trained_without_a_download(name: str, street: Path, tmp_path: Path) -> None:
    roots = {f"{split}_dataloader.dataset.root": str(street) for split in ("train", "val", "test")}
    text = load_config(f"segc::{name}", roots).pretty_text
    assert "http" not in text and "open-mmlab" not in text
    small = {**roots, "train_dataloader.batch_size": 2, "train_cfg.max_iters": 1}
    runner = build_runner(prepare(load_config(f"segc::{name}", small), tmp_path))
    batch = next(iter(runner.train_dataloader))
    assert batch["inputs"][0].shape == (3, *runner.model.data_preprocessor.size)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in mixed precision")
def test_mixed_precision_is_left_out_without_a_gpu(tmp_path: Path) -> None:
    wrapper = {"type": "AmpOptimWrapper", "loss_scale": 512.0, "optimizer": {"type": "SGD", "lr": 0.01}}
    cfg = prepare(load_config("segc::quickstart/quickstart.py", {"optim_wrapper": wrapper}), tmp_path)
    assert (cfg.optim_wrapper.type, set(cfg.optim_wrapper) & {"loss_scale", "dtype"}) == ("OptimWrapper", set())
