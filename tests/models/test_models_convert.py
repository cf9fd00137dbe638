"""Published names -> ours, on state dicts that have the published names and shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.models.config import load_config
from segc.models.network import build_model, load_network
from segc.models.published import convert
from tests.models.seeded import fill

SEGMAN = "segc::segman/segman_t_ade20k.py"
SEGFORMER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"


@pytest.fixture(scope="module")
def segman() -> dict[str, Tensor]:
    """A state dict of SegMAN-T for ADE20K; its names and shapes are those of the official modules (457 entries)."""
    state = build_model(load_config(SEGMAN)).state_dict()
    fill(state, 1)
    return state


@pytest.fixture(scope="module")
def nvidia() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(NVIDIA's state dict of a MiT-B0 encoder, mmseg's of the same weights)."""
    ours = {name: tensor for name, tensor in build_model(load_config(SEGFORMER)).state_dict().items() if name.startswith("backbone.")}
    fill(ours, 2)
    theirs = {}
    for name, tensor in ours.items():
        theirs.update(_as_nvidia(name.removeprefix("backbone.layers."), tensor))
    return theirs, ours


def _as_nvidia(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The inverse, written from the published names: patch_embed1.proj, block1.0.attn.kv, block1.0.mlp.fc1, norm1."""
    stage, part, rest = name.split(".", 2)
    number = int(stage) + 1
    if part == "0":
        return {f"patch_embed{number}.{rest.replace('projection', 'proj')}": tensor}
    if part == "2":
        return {f"norm{number}.{rest}": tensor}
    prefix = f"block{number}."
    if "in_proj_" in rest:
        block, kind = rest.split(".")[0], rest.rsplit("_", 1)[1]
        width = tensor.shape[0] // 3
        return {f"{prefix}{block}.attn.q.{kind}": tensor[:width], f"{prefix}{block}.attn.kv.{kind}": tensor[width:]}
    for ours, theirs in (("ffn.layers.0", "mlp.fc1"), ("ffn.layers.1", "mlp.dwconv.dwconv"), ("ffn.layers.4", "mlp.fc2")):
        rest = rest.replace(ours, theirs)
    rest = rest.replace("attn.attn.out_proj", "attn.proj")
    flat = rest.endswith(("fc1.weight", "fc2.weight"))
    return {prefix + rest: tensor[:, :, 0, 0] if flat else tensor}


def _save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_a_published_network_is_loaded_as_it_is(segman: dict[str, Tensor], tmp_path: Path) -> None:
    network = load_network(SEGMAN, _save(tmp_path / "w.pth", {"state_dict": segman, "meta": {"mmseg_version": "0.30.0"}}))
    assert all(torch.equal(tensor, segman[name]) for name, tensor in network.model.state_dict().items())


def test_an_encoder_file_fills_the_backbone(segman: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = {name.removeprefix("backbone."): t for name, t in segman.items() if name.startswith("backbone.")}
    classifier = {"classifier.0.weight": torch.zeros(1024, 192, 1, 1), "classifier.4.bias": torch.zeros(1000)}
    old = dict.fromkeys(encoder, torch.zeros(1))
    file = _save(tmp_path / "encoder.pth.tar", {"state_dict": old, "state_dict_ema": {**encoder, **classifier}})
    found = convert(SEGMAN, file)
    assert found.loaded == len(encoder)
    assert {item.kind for item in found.differences} == {"missing"}
    assert all(item.name.startswith("decode_head.") for item in found.differences)
    state = found.network.model.state_dict()
    assert all(torch.equal(state[f"backbone.{name}"], tensor) for name, tensor in encoder.items())


def test_the_head_of_150_classes_in_a_cityscapes_checkpoint_is_told(segman: dict[str, Tensor], tmp_path: Path) -> None:
    file = _save(tmp_path / "w.pth", {"state_dict": segman})
    found = convert("segc::segman/segman_t_cityscapes.py", file)
    told = {item.name: (item.kind, item.theirs, item.ours) for item in found.differences}
    assert told == {
        "decode_head.conv_seg.weight": ("reshaped", (150, 128, 1, 1), (19, 128, 1, 1)),
        "decode_head.conv_seg.bias": ("reshaped", (150,), (19,)),
    }
    with pytest.raises(UserError, match=r"2 of another shape .*conv_seg.weight \(150, 128, 1, 1\) instead of \(19, 128, 1, 1\)"):
        load_network("segc::segman/segman_t_cityscapes.py", file)


def test_nvidias_encoder_becomes_mmsegs(nvidia: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path) -> None:
    theirs, ours = nvidia
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    found = convert(SEGFORMER, _save(tmp_path / "mit_b0.pth", {**theirs, **head}))
    state = found.network.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.items())
    assert all(item.kind == "missing" and item.name.startswith("decode_head.") for item in found.differences)


def test_a_joined_projection_attends_as_the_separate_ones(nvidia: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path) -> None:
    """Query, key and value in that order: the module of mmseg against NVIDIA's formula."""
    theirs, _ = nvidia
    found = convert(SEGFORMER, _save(tmp_path / "mit_b0.pth", theirs))
    attention = found.network.model.backbone.layers[3][1][0].attn.attn  # type: ignore[union-attr,index]
    x = torch.randn(1, 9, 256)
    q = x @ theirs["block4.0.attn.q.weight"].T + theirs["block4.0.attn.q.bias"]
    k, v = (x @ theirs["block4.0.attn.kv.weight"].T + theirs["block4.0.attn.kv.bias"]).chunk(2, -1)
    q, k, v = (part.view(1, 9, 8, 32).transpose(1, 2) for part in (q, k, v))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 9, 256)
    expected = mixed @ theirs["block4.0.attn.proj.weight"].T + theirs["block4.0.attn.proj.bias"]
    with torch.no_grad():
        tokens = x.transpose(0, 1)  # mmseg builds it with the tokens first
        assert torch.allclose(attention(tokens, tokens, tokens)[0].transpose(0, 1), expected, atol=1e-5)


def test_convert_refuses_by_default_and_writes_what_fits_when_told(segman: dict[str, Tensor], tmp_path: Path) -> None:
    file, output = _save(tmp_path / "w.pth", {"state_dict": segman}), tmp_path / "out.safetensors"
    command = ["convert", "segc::segman/segman_t_cityscapes.py", "--weights", str(file), "-o", str(output), "--json"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and not output.exists()
    assert json.loads(refused.output)["data"]["reshaped"] == 2
    done = CliRunner().invoke(app, [*command, "--partial"])
    assert done.exit_code == 0, done.output
    stored = load_network(None, output)
    assert len(stored.classes) == 19
    assert torch.equal(stored.model.state_dict()["backbone.patch_embed.0.weight"], segman["backbone.patch_embed.0.weight"])


def test_weights_of_another_network_are_not_written_even_in_part(tmp_path: Path) -> None:
    file, output = _save(tmp_path / "w.pth", {"some.weight": torch.zeros(3)}), tmp_path / "out.safetensors"
    done = CliRunner().invoke(app, ["convert", SEGMAN, "--weights", str(file), "-o", str(output), "--partial"])
    assert done.exit_code == 1 and not output.exists()
