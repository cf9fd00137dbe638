"""A 2:4 sparse network: made, trained on, exported, told by inspect; and what the verb refuses."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from verbs import run_json

from segc.core.errors import CheckFailed, UserError
from segc.data.dataset import open_dataset
from segc.export.exporter import export_network
from segc.export.sparsity import weight_patterns
from segc.models.network import load_network
from segc.models.sparsity import apply_masks, is_two_of_four
from segc.pipeline.sparsity import sparsify
from segc.train.trainer import train


@pytest.fixture(scope="module")
def sparse(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network made sparse and trained for two iterations."""
    output = tmp_path_factory.mktemp("sparse") / "sparse.safetensors"
    result = sparsify(load_network(None, trained), output, ["backbone.layer1"], iterations=2)
    assert result.training and result.training.iterations == 2 and 0.3 < result.zeros < 0.5
    return output


def zeros(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    state = load_network(None, path).model.state_dict()
    return {name: state[name] == 0 for name in names}


def test_training_moves_weights_and_keeps_zeros(trained: Path, sparse: Path) -> None:
    before, after = (load_network(None, path) for path in (trained, sparse))
    (hook,) = after.cfg.custom_hooks
    names = hook["tensors"]
    assert "backbone.layer2.0.conv1.weight" in names and not any(name.startswith("backbone.layer1.") for name in names)
    own, other = (network.model.state_dict() for network in (after, before))
    for name in names:
        kept = own[name] != 0
        assert is_two_of_four(own[name]) and kept.float().mean() == pytest.approx(0.5, abs=0.01)
        assert not torch.equal(own[name][kept], other[name][kept]), "it was not trained"
    assert after.cfg.train_cfg == before.cfg.train_cfg and after.cfg.get("load_from") is None


def test_what_trains_it_on_leaves_it_sparse(sparse: Path, tmp_path: Path) -> None:
    """By its config alone, from a checkpoint too, and with the same zeros."""
    cfg = load_network(None, sparse).cfg
    (hook,) = cfg.custom_hooks
    cfg.load_from, cfg.train_cfg = str(sparse), {**cfg.train_cfg, "max_iters": 2, "val_interval": 2}
    longer = train(cfg, work_dir=tmp_path / "work").weights
    before, after = (zeros(path, hook["tensors"]) for path in (sparse, longer))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_export_keeps_it_and_inspect_tells(sparse: Path, trained: Path, tmp_path: Path) -> None:
    network = load_network(None, sparse)
    (hook,) = network.cfg.custom_hooks
    images = open_dataset(network.cfg.val_dataloader.dataset.root, split="val").image_paths
    export_network(None, sparse, tmp_path / "bundle", images=images, verify_images=1, exporter="torchscript", opset=17)
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    sparse_nodes = [pattern for pattern in weight_patterns(model) if not pattern.reason]
    assert len(sparse_nodes) == len([name for name in hook["tensors"] if not name.startswith("auxiliary")])
    told = run_json("inspect", tmp_path / "bundle")[1]["data"]["graphs"]["fp32"]
    patterns = weight_patterns(model)
    assert told["layers_2_4"] == f"{len(sparse_nodes)} of {len(patterns)}"
    assert told["dense_layers"] == [pattern.node for pattern in patterns if pattern.dense]
    assert (
        run_json("inspect", sparse)[1]["data"]["layers_2_4"] == len(hook["tensors"])
        and run_json("inspect", trained)[1]["data"]["layers_2_4"] == 0
    )


def test_a_weight_that_fills_up_is_noticed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segc.pipeline.sparsity.apply_masks", lambda model, masks: apply_masks(model, dict(list(masks.items())[1:])))
    with pytest.raises(CheckFailed, match=r"1 of \d+ weights are not 2:4 sparse"):
        sparsify(load_network(None, trained), tmp_path / "x.safetensors")


def test_weights_that_are_no_numbers_are_named(trained: Path, tmp_path: Path) -> None:
    network = load_network(None, trained)
    with torch.no_grad():
        network.model.get_parameter("backbone.layer2.0.conv1.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"not finite numbers \(backbone\.layer2\.0\.conv1\.weight\)"):
        sparsify(network, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_verb_shows_then_writes(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    code, shown = run_json("prune", trained, "--sparsity", "2:4", "--show", "-o", output)
    assert (
        code == 0 and not output.exists() and shown["data"]["dense"] == {"backbone.stem.0": "its 3 input channels are not divisible by 4"}
    )
    code, told = run_json("prune", trained, "--sparsity", "2:4", "-o", output)
    assert code == 0 and output.exists() and told["data"]["tensors"] == shown["data"]["tensors"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sparsity", "1:4"], "expected 2:4"),
        (["--sparsity", "2:4", "--flops", "0.5", "--criterion", "l2"], "given too: --flops, --criterion"),
        (["--sparsity", "2:4", "--seed", "1", "--round-to", "4", "--backend", "openvino"], "given too: --round-to, --seed, --backend"),
        (["--sparsity", "2:4", "--threads", "1"], "measures no latency; given too: --threads"),
        (["--sparsity", "2:4", "--keep", "backbone.laier1"], "Did you mean 'backbone.layer1'"),
        (["--sparsity", "2:4", "--finetune", "-1"], "-1 iterations of fine-tuning"),
    ],
    ids=str,
)
def test_the_verb_tells_mistakes(trained: Path, tmp_path: Path, words: list[str], told: str) -> None:
    code, result = run_json("prune", trained, *words, "-o", tmp_path / "x.safetensors")
    assert code == 2 and told in result["error"]
