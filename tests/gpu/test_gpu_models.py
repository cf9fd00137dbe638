"""The benchmark of whole networks, as far as a machine without a GPU goes: every path of the rows that does not need one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import DYNAMIC, make_bundle

from benchmarks import gpu_models
from segc.core.errors import CheckFailed, UserError
from segc.models.network import load_network

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_network_has_a_config_that_loads() -> None:
    for config in gpu_models.NETWORKS.values():
        network = load_network(config, None, overrides=gpu_models.WHOLE, random_weights=True)
        assert len(network.classes) == 19 and network.cfg.model.test_cfg.mode == "whole"


def test_an_engine_that_is_refused_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(bundle: Path, precision: str, *_: object, **__: object) -> None:
        raise CheckFailed("convolutions in fp32") if precision == "fp16" else UserError("no such GPU.", "Take another.")

    monkeypatch.setattr(gpu_models, "add_engine", refuse)
    monkeypatch.setattr(gpu_models.flavours, "installed", lambda name: name == "rtx")
    monkeypatch.setattr(gpu_models.flavours, "find_flavour", lambda name: name)
    rows = gpu_models.build_engines(make_bundle(tmp_path / "bundle", DYNAMIC), CPU)
    assert [(row.value, row.conditions) for row in rows] == [
        (0.0, {"target": "fp32 rtx", "refused": "no such GPU. Take another."}),
        (0.0, {"target": "fp16 rtx", "refused": "convolutions in fp32"}),
    ]
