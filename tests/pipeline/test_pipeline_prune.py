"""Pruning and training in turns on six rendered scenes, and the verb around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verbs import run_json

from segc.compress.prune import PruneOptions, Pruner
from segc.compress.targets import Target
from segc.core.errors import UserError
from segc.models.network import Network, load_network
from segc.pipeline.prune import prune, register_data, step_target


def test_prunes_and_trains_in_turns_and_resumes(network: Network, tmp_path: Path) -> None:
    output = tmp_path / "half.safetensors"
    result = prune(network, Target("params", 0.5), output, PruneOptions(round_to=2), steps=2, iterations=2)
    assert 0.4 < result.after.parameters / result.before.parameters <= 0.5
    assert [training.iterations for training in result.trainings] == [2, 2]
    found = load_network(None, output)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(found.model(images, mode="tensor"), result.network.model(images, mode="tensor"))
    assert found.cfg.get("load_from") is None and found.cfg.train_cfg == network.cfg.train_cfg
    again = prune(network, Target("params", 0.5), output, PruneOptions(round_to=2), steps=2, iterations=2)
    assert again.trainings == result.trainings, "finished trainings were not taken over"
    state = load_network(None, output).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in found.model.state_dict().items())


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_gradient_criteria_look_at_training_images_and_repeat_themselves(network: Network, criterion: str) -> None:
    register_data()
    options = PruneOptions(criterion=criterion, images=4, seed=5)
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr, call-overload, index]
    first, second = Pruner(network, options), Pruner(network, options)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr, call-overload, index]
    assert first.plan(0.5) == second.plan(0.5) != Pruner(network, PruneOptions(criterion="l1")).plan(0.5)


def test_taylor_is_weight_times_gradient(network: Network) -> None:
    """Over the convolutions that give and read the channels; torch-pruning leaves batch norms out here."""
    register_data()
    pruner = Pruner(network, PruneOptions(criterion="taylor", images=4))
    group = next(group for group in pruner.groups if group.name == "backbone.layer2.1.conv1")
    modules: dict[str, Any] = dict(pruner.model.named_modules())
    conv, reader = (modules[f"backbone.layer2.1.{name}"] for name in ("conv1", "conv2"))
    rows = (conv.weight * conv.weight.grad).abs().flatten(1).sum(1) + (reader.weight * reader.weight.grad).abs().sum((0, 2, 3))
    torch.testing.assert_close(group.scores, (rows / rows.mean()).detach(), rtol=1e-4, atol=1e-6)


def test_steps_share_one_target() -> None:
    assert step_target(Target("flops", 0.25), 1, 2).value == pytest.approx(0.5)
    assert step_target(Target("flops", 0.25), 2, 2).value == pytest.approx(0.25)
    assert step_target(Target("ratio", 0.75), 1, 2).value == pytest.approx(0.5)


def test_steps_without_training_are_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="several steps need a training"):
        prune(network, Target("ratio", 0.5), tmp_path / "x.safetensors", steps=2)


def test_the_verb_shows_without_writing_then_writes(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "pruned.safetensors"
    code, shown = run_json("prune", trained, "--flops", 0.6, "-o", output, "--show")
    assert code == 0 and not output.exists()
    code, told = run_json("prune", trained, "--flops", 0.6, "-o", output)
    assert code == 0 and told["data"]["after"] == shown["data"]["after"]
    after = dict(load_network(None, output).model.named_modules())
    for group in shown["data"]["groups"]:
        assert after[group["name"]].weight.shape[0] == group["after"]  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ratio", "1.5", "--show"], "ratio is 1.5; expected a share between 0 and 1"),
        (["--ratio", "0", "--show"], "ratio is 0"),
        (["--flops", "1", "--show"], "--flops is 1"),
        (["--show"], "given: none"),
        (["--ratio", "0.5", "--flops", "0.5", "--show"], "given: --ratio, --flops"),
        (["--ratio", "0.5"], "Add -o pruned.safetensors"),
        (["--ratio", "0.5", "--show", "--criterion", "tailor"], "Did you mean 'taylor'"),
        (["--ratio", "0.5", "--show", "--keep", "backbone.laier1"], "Did you mean 'backbone.layer1'"),
    ],
    ids=str,
)
def test_the_verb_tells_mistakes(trained: Path, words: list[str], told: str) -> None:
    code, result = run_json("prune", trained, *words)
    assert code == 2 and told in result["error"]
