"""Counts against published tables, and the catalogue against what it names."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from segc.cli.main import app
from segc.models.catalogue import catalogue, counts
from segc.models.complexity import complexity
from segc.models.config import config_path, load_config
from segc.models.network import build_model
from segc.ops.flops import attention_flops, cross_scan_flops

# GFLOPs of the SegMAN repository and of AFFormer's abstract; parameters in millions measured on the official code.
PUBLISHED = {
    "segman-t": (6.397, 6.2),
    "segman-s": (29.425, 25.3),
    "segman-b": (51.803, 58.1),
    "segman-l": (92.336, 97.1),
    "afformer-base": (3.004 - 0.066, 4.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_within_two_percent_of_the_published(name: str) -> None:
    millions, giga = PUBLISHED[name]
    assert counts()[name].parameters / 1e6 == pytest.approx(millions, abs=1e-3)
    assert counts()[name].macs / 1e9 == pytest.approx(giga, rel=0.02)


def test_the_stored_counts_are_those_of_the_code() -> None:
    from benchmarks.count_networks import count

    entry = next(entry for entry in catalogue() if entry.name == "segman-t")
    assert count(entry) == counts()["segman-t"]


def test_segman_t_at_cityscapes_size_counts_as_published() -> None:
    """The published 52.5 G were counted with the 150 classes of the published config."""
    cfg = load_config("segc::segman/segman_t_cityscapes.py", {"model.decode_head.num_classes": 150})
    assert complexity(build_model(cfg), (1024, 2048)).macs / 1e9 == pytest.approx(52.5, rel=0.005)


def test_a_convolution_counts_its_products() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.auxiliary_head = nn.Conv2d(3, 5, 1)

        def forward(self, x: torch.Tensor, mode: str) -> torch.Tensor:
            return self.conv(x)

    found = complexity(Net(), (10, 12))
    assert found.parameters == 8 * 3 * 9
    assert found.macs == 10 * 12 * 8 * 3 * 9 + 4 * 10 * 12 * 8  # and the interpolation to the image's size


def test_formulas_of_the_operators() -> None:
    assert attention_flops((2, 8, 9, 3, 16), (), (), (5, 7)) == 4 * 2 * 8 * 9 * 3 * 16 * 35
    assert cross_scan_flops((2, 6, 8, 9), (2, 24, 8, 9), (24, 4)) == 2 * 2 * 72 * 24 * (9 * 4 + 1)


def test_every_config_of_the_catalogue_exists_and_every_network_is_counted() -> None:
    assert [path for entry in catalogue() for path in entry.configs.values() if not config_path(path).is_file()] == []
    assert [entry.name for entry in catalogue()] == list(counts())
    assert all(set(entry.miou) <= set(entry.configs) for entry in catalogue())


def test_models_lists_and_shows_and_suggests() -> None:
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)["data"]
    assert listed["segman-t"]["parameters"] == counts()["segman-t"].parameters
    sheet = CliRunner().invoke(app, ["models", "segformer-b0"]).stdout
    assert "non-commercial" in sheet and "37.41" in sheet
    wrong = CliRunner().invoke(app, ["models", "segmen-t"])
    assert wrong.exit_code == 2 and "segman-t" in wrong.output
