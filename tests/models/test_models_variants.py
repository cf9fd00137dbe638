"""A checkpoint of another variant is refused, and the variant that it is of is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import segc.models.variants as module
from segc.cli.main import app
from segc.core.errors import UserError
from segc.models.catalogue import Entry, catalogue
from segc.models.config import load_config
from segc.models.network import build_model, load_network
from segc.models.variants import closest_variant

States = dict[str, dict[str, Tensor]]
BASE = Path(__file__).parents[2] / "configs/_base_/extremec3.py"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Short and long ExtremeC3Nets for 2 and 9 classes."""
    folder = tmp_path_factory.mktemp("configs")
    for name, blocks in (("short", 1), ("long", 4)):
        for classes in (2, 9):
            head = f"num_classes={classes}, out_channels={classes}, threshold=None"
            text = f"_base_ = {str(BASE)!r}\nmodel = dict(backbone=dict(second_blocks={blocks}), decode_head=dict({head}))\n"
            (folder / f"{name}{classes}.py").write_text(text)
    return {path.stem: str(path) for path in folder.glob("*.py")}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, configs: dict[str, str]) -> None:
    """Two networks in the catalogue, for two data sets each."""
    first = catalogue()[0]
    entries = [
        first.model_copy(update={"name": name, "system": "C3", "configs": {"two": configs[f"{name}2"], "nine": configs[f"{name}9"]}})
        for name in ("short", "long")
    ]
    monkeypatch.setattr(module, "catalogue", lambda: entries)


@pytest.fixture(scope="module")
def states(configs: dict[str, str]) -> States:
    return {name: build_model(load_config(path)).state_dict() for name, path in configs.items()}


@pytest.fixture
def file(states: States, tmp_path: Path) -> Path:
    save_file(states["long9"], tmp_path / "long9.safetensors")
    return tmp_path / "long9.safetensors"


def test_loading_names_the_variant(configs: dict[str, str], file: Path) -> None:
    with pytest.raises(UserError, match=r"another network: .*It is long: give the config .*long9\.py\.$"):
        load_network(configs["short2"], file)


def test_export_names_the_variant(configs: dict[str, str], file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", configs["short2"], "--weights", str(file), "-o", str(tmp_path / "bundle")])
    assert done.exit_code == 2 and "It is long" in done.output and not (tmp_path / "bundle").exists()


def test_convert_names_the_variant(configs: dict[str, str], file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    data = "test_dataloader = dict(dataset=dict(type='ADE20KDataset', metainfo=dict(classes=['a', 'b'])))\n"
    (tmp_path / "named.py").write_text(Path(configs["short2"]).read_text() + data)
    command = ["convert", str(tmp_path / "named.py"), "--weights", str(file), "-o", str(output), "--json"]
    done = CliRunner().invoke(app, command)
    nearest = json.loads(done.output)["data"]["nearest"]
    assert done.exit_code == 1 and not output.exists()
    assert (nearest["name"], nearest["config"]) == ("long", configs["long9"]) and nearest["fitting"] == nearest["total"]


class _Code:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_pickle_with_code_is_not_run_and_nothing_is_written(configs: dict[str, str], tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": _Code(tmp_path / "owned")}, tmp_path / "evil.pth")
    done = CliRunner().invoke(app, ["export", configs["short2"], "--weights", str(tmp_path / "evil.pth"), "-o", str(tmp_path / "bundle")])
    assert done.exit_code == 2 and "is not loaded" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_wrong_num_classes_names_both_and_the_config_that_fits(configs: dict[str, str], states: States, tmp_path: Path) -> None:
    save_file(states["short9"], tmp_path / "short9.safetensors")
    with pytest.raises(UserError, match=r"conv_seg\.weight \(9, 24, 1, 1\) instead of \(2, 24, 1, 1\).*9 classes.*2 classes.*short9\.py"):
        load_network(configs["short2"], tmp_path / "short9.safetensors")


def test_a_head_of_other_classes_makes_the_nearest(configs: dict[str, str], states: States) -> None:
    given = {**states["long2"], "decode_head.conv_seg.weight": torch.zeros(7, 24, 1, 1)}
    found = closest_variant(load_config(configs["short2"]).model, states["short2"], given)
    assert found is not None and found.name == "long" and found.fitting == found.total - 1
    assert found.sentence() == f"The nearest network is long ({found.config}): {found.fitting} of {found.total} tensors fit."


def test_nothing_is_named_where_nothing_is_nearer(configs: dict[str, str], states: States) -> None:
    model, own = load_config(configs["short2"]).model, states["short2"]
    assert closest_variant(model, own, {"some.weight": torch.zeros(3)}) is None
    assert closest_variant({"decode_head": {"type": "Other"}}, own, states["long2"]) is None
    seven = {**own, "decode_head.conv_seg.weight": torch.zeros(7, 24, 1, 1)}
    assert closest_variant(model, own, seven) is None, "the given config is the nearest"


def test_no_weights_are_kept(configs: dict[str, str]) -> None:
    shapes = module._shapes(configs["long2"])
    parameters = {name for name, _ in build_model(load_config(configs["long2"])).named_parameters()}
    assert {name for name, tensor in shapes.items() if tensor.is_meta} == parameters
    assert not any(parameter.is_meta for parameter in torch.nn.Linear(2, 2).parameters())


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in catalogue() if entry.name in ("segman-s", "segformer-b1", "afformer-base")], ids=str)
def test_variants_of_the_catalogue(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "catalogue", catalogue)
    other = next(item for item in catalogue() if item.system == entry.system)
    config = entry.configs["cityscapes"]
    own, given = module._shapes(other.configs["ade20k"]), module._shapes(config)
    found = closest_variant(load_config(other.configs["ade20k"]).model, own, given)
    assert found is not None and found.sentence() == f"It is {entry.name}: give the config {config}."
