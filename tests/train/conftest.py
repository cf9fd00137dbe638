"""A set of six rendered scenes and the quickstart network on small crops of them: a training of seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import small_training

from segc.data.dataset import open_dataset
from segc.data.render import RenderOptions, render_dataset

QUICKSTART = "segc::quickstart/quickstart.py"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Crops this small are slower on more threads, and much slower beside other processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the small set."""
    root = tmp_path_factory.mktemp("scenes") / "street"
    return render_dataset(root, RenderOptions(width=96, height=64, train=6, val=3))


@pytest.fixture(scope="session")
def tiny(street: Path) -> dict[str, Any]:
    """Overrides that make a four-iteration training of ``QUICKSTART``, validated every second one."""
    return {
        **small_training(street, channels=8),
        "default_hooks.checkpoint.interval": 1,
        "train_cfg.max_iters": 4,
        "train_cfg.val_interval": 2,
    }


@pytest.fixture(scope="session")
def typed(tiny: dict[str, Any]) -> list[str]:
    """The command line of the same training, without its work dir."""
    return ["train", QUICKSTART, *[word for key, value in tiny.items() for word in ("-o", f"{key}={value}")]]


@pytest.fixture(scope="session")
def miou_of(street: Path) -> Callable[[Path], float]:
    """The validation mIoU of a weights file, computed without mmseg's loop and metric."""
    return lambda weights: _miou(weights, street)


def _miou(weights: Path, root: Path) -> float:
    """mIoU in percent by its definition, from the class maps of the deploy module."""
    import torch

    from segc.models.contract import contract_from_config
    from segc.models.deploy import DeployModule
    from segc.models.network import load_network
    from segc.runtime.images import read_image

    network = load_network(None, weights)
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=(64, 96))
    module = DeployModule(network.model, contract).eval()
    scenes = open_dataset(root, split="val")
    both, either = np.zeros(11), np.zeros(11)
    for pair in scenes.pairs:
        with torch.no_grad():
            found = module(torch.from_numpy(read_image(pair.image)[None])).numpy().reshape(64, 96)
        truth = scenes.read_label(pair)
        for index in range(11):
            ours, theirs = (found == index) & (truth != 255), truth == index
            both[index] += (ours & theirs).sum()
            either[index] += (ours | theirs).sum()
    return float(100 * np.mean(both[either > 0] / either[either > 0]))
