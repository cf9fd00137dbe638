"""``segc export``: what is typed wrongly, and one run from a checkpoint to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segc.cli.export import parse_batch, parse_size
from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import write_image
from segc.models.network import load_network, save_network
from segc.runtime.bundle import read_manifest

BISENET = "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py"
PEM = "segc::pem/pem_stdc1_cityscapes.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    write_image(folder / "cat.jpg", data.chelsea()[:128, :160])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "net.safetensors"
    save_network(load_network(BISENET, None, random_weights=True), path)
    return path


def test_weights_that_are_no_numbers_are_named(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    network = load_network(None, checkpoint)
    network.model.get_parameter("decode_head.conv_seg.bias").data[0] = float("nan")
    save_network(network, tmp_path / "broken.safetensors")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "broken.safetensors"), "-o", str(tmp_path / "b"), "--images", str(photos)])
    assert done.exit_code == 2 and "decode_head.conv_seg.bias" in done.output and not (tmp_path / "b").exists()


def test_from_a_checkpoint_to_a_bundle(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    command = [
        "export",
        str(checkpoint),
        "-o",
        str(tmp_path / "b"),
        "--input-size",
        "64x96",
        "--network-size",
        "input",
        "--images",
        str(photos),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["verdict"], told["data"]["contract"]["height"]) == ("passed", 64)
    assert told["data"]["graph"]["sha256"] == read_manifest(tmp_path / "b").graphs["fp32"].sha256
    again = CliRunner().invoke(app, ["export", str(tmp_path / "b")])
    assert again.exit_code == 2
    assert "--precision int8" in again.output
    int8 = CliRunner().invoke(app, ["export", str(tmp_path / "b"), "--precision", "int8"])
    assert int8.exit_code == 2
    assert "segc calibrate" in int8.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([BISENET, "-o", "x"], "no weights"),
        ([BISENET, "--random-weights"], "-o bundle/"),
        ([BISENET, "-o", "x", "--random-weights", "--input-size", "12y13"], "expected HxW"),
        ([BISENET, "-o", "x", "--random-weights", "--batch", "many"], "number of images"),
        ([BISENET, "-o", "x", "--weights", "gone.pth"], "do not exist"),
        ([BISENET, "-o", "x", "--random-weights", "--precision", "int8"], "segc calibrate x"),
        ([BISENET, "-o", "x", "--random-weights", "--precision", "int8", "--calibration", "no.json"], "does not exist"),
        ([BISENET, "-o", "x", "--random-weights", "--override", "model.decode_head.chanels=3"], "Did you mean 'channels'"),
        (["mmseg::bisenetv2/bisenetv2_fcn.py", "-o", "x"], "Nearest"),
        (["a.pth", "--weights", "b.pth", "-o", "x"], "Give a config"),
        ([PEM, "-o", "x", "--random-weights", "--output", "probabilities"], "PEMHead has no probabilities to give"),
    ],
)
def test_mistakes_end_in_a_sentence(options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", *options])
    assert done.exit_code == 2
    assert told in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_sizes_and_batches() -> None:
    assert [parse_size(text, "dynamic", "--input-size") for text in ("480x640", "512", "dynamic", None)] == [
        (480, 640),
        (512, 512),
        "dynamic",
        None,
    ]
    assert [parse_batch(text) for text in ("1", "8", "dynamic")] == [1, 8, None]
    for text in ("0x4", "-1x3", "1x2x3", "ax4", "", "input"):
        with pytest.raises(UserError):
            parse_size(text, "dynamic", "--input-size")
    for text in ("0", "-1", "1.5", ""):
        with pytest.raises(UserError):
            parse_batch(text)
