"""Pruned networks: what is cut is what was told, equal before and after saving, and exactly the network without those channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segc.compress.criteria import CRITERIA
from segc.compress.groups import Group
from segc.compress.prune import Plan, PruneOptions, Pruner
from segc.compress.targets import Target, plan_for
from segc.core.errors import CheckFailed, UserError
from segc.models.complexity import complexity
from segc.models.network import Network, load_network, save_network

QUICKSTART = "segc::quickstart/quickstart.py"
SEGFORMER = "segc::segformer/segformer_b0_camvid.py"
NARROW = {"model.backbone.base_channels": 16, "model.backbone.stem_channels": 16, "model.neck.in_channels": [16, 32, 64, 128]}
IMAGES = (2, 3, 64, 96)


def _network(config: str, overrides: dict[str, Any] | None = None) -> Network:
    """Random weights of which every one matters, and norms that do something."""
    network = load_network(config, None, overrides=overrides, random_weights=True)
    torch.manual_seed(1)
    for module in network.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5), nn.init.normal_(module.running_mean, std=0.2)
    for parameter in network.model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network


@pytest.fixture(scope="module")
def small() -> Network:
    return _network(QUICKSTART, NARROW)


@pytest.fixture(scope="module")
def segformer() -> Network:
    return _network(SEGFORMER)


def _logits(network: Network, shape: tuple[int, ...] = IMAGES) -> Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        return network.model(torch.rand(shape), mode="tensor")


def _silenced(pruner: Pruner, groups: list[Group], plan: Plan) -> Network:
    """The whole network with zeros in every weight that reads a channel of the plan, or gives one to attention's logits."""
    rows = {(name, side) for name in ("q_proj", "k_proj") for side in ("out",)}
    for group, numbers in zip(groups, plan, strict=True):
        gone = {channel for number in numbers for channel in group.units[number]}
        for member in group.members:
            indices = [index for index, root in zip(member.indices, member.roots, strict=True) if root in gone]
            module: Any = pruner.model.get_submodule(member.path)
            if member.side == "in":
                module.weight.data[:, indices] = 0
            elif (member.path.rpartition(".")[2], member.side) in rows:
                module.weight.data[indices], module.bias.data[indices] = 0, 0
    return Network(pruner.model, pruner.network.cfg, [], [])


def _check_exact(network: Network, wanted: str, shape: tuple[int, ...] = IMAGES) -> int:
    """Cut half of the groups whose names hold ``wanted``; returns how many there are."""
    pruner = Pruner(network, PruneOptions(scope="local"))
    plan = [numbers if wanted in group.name else [] for group, numbers in zip(pruner.groups, pruner.plan(0.5), strict=True)]
    pruned = pruner.cut(plan)
    expected = _logits(_silenced(pruner, pruner.groups, plan), shape)
    found = _logits(pruned, shape)
    largest = float(expected.abs().max())
    assert (found - _logits(network, shape)).abs().max() > 1e-3 * largest, "the cut channels did nothing"
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * largest)
    return sum(map(bool, plan))


def test_a_pruned_network_is_the_network_without_those_channels(small: Network) -> None:
    assert _check_exact(small, "") > 15


@pytest.mark.parametrize("wanted", ["ffn", "attn.attn", "decode_head"])
def test_segformers_parts_are_cut_exactly(segformer: Network, wanted: str) -> None:
    """Not its stages and spatial reductions: the LayerNorm behind them takes its mean over fewer channels afterwards."""
    assert _check_exact(segformer, wanted) >= 5


@pytest.mark.parametrize(
    ("config", "wanted", "least"),
    [("segman/segman_t_camvid.py", "layers.6.blocks.1", 2), ("afformer/afformer_tiny_camvid.py", "mlp", 8)],
)
def test_our_networks_lose_heads_and_channels_exactly(config: str, wanted: str, least: int) -> None:
    assert _check_exact(_network(f"segc::{config}"), wanted, (1, 3, 224, 224)) >= least


def test_saved_and_built_without_the_original(segformer: Network, tmp_path: Path) -> None:
    pruner = Pruner(segformer)
    pruned = pruner.cut(pruner.plan(0.6))
    save_network(pruned, tmp_path / "pruned.safetensors")
    found = load_network(None, tmp_path / "pruned.safetensors")
    assert torch.equal(_logits(found), _logits(pruned))
    assert found.cfg.model.type == "Reshaped" and found.classes == segformer.classes
    again = Pruner(found, PruneOptions(round_to=4))
    smaller = again.cut(again.plan(0.5))
    save_network(smaller, tmp_path / "smaller.safetensors")
    assert torch.equal(_logits(load_network(None, tmp_path / "smaller.safetensors")), _logits(smaller))
    sizes = [sum(parameter.numel() for parameter in each.model.parameters()) for each in (segformer, found, smaller)]
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2], sizes


def test_a_pruned_network_trains(segformer: Network) -> None:
    pruner = Pruner(segformer)
    model: Any = pruner.cut(pruner.plan(0.5)).model.train()
    model(torch.rand(IMAGES), mode="tensor").square().mean().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()) > 150


def test_plans_are_told_before_anything_is_cut(small: Network) -> None:
    before = {name: tensor.clone() for name, tensor in small.model.state_dict().items()}
    pruner = Pruner(small, PruneOptions(scope="local", round_to=4))
    plan = pruner.plan(0.5)
    for change in pruner.changes(plan):
        assert change.after == max(change.before // 2, 4) and change.after % 4 == 0 and change.members > 1
    pruned = dict(pruner.cut(plan).model.named_modules())
    for change in pruner.changes(plan):
        assert pruned[change.name].weight.shape[0] == change.after
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.model.state_dict().items())
    assert pruned["decode_head.conv_seg"].out_channels == 11 and pruned["backbone.stem.0"].in_channels == 3


def test_segmans_scans_lose_the_heads_of_their_attention() -> None:
    """q, k, v, lepe, the scan's five tensors, its norms and the projection lose the same heads, and the position tables theirs."""
    pruner = Pruner(_network("segc::segman/segman_t_camvid.py"), PruneOptions(scope="local"))
    plan = pruner.plan(0.5)
    heads = [change for change in pruner.changes(plan) if change.unit == "head"]
    assert [(change.before, change.after) for change in heads] == [(2, 1)] * 2 + [(1, 1)] * 2 + [(4, 2)] * 4 + [(8, 4)] * 2
    mixer: Any = pruner.cut(plan).model.get_submodule("backbone.layers.4.blocks.0.token_mixer")
    assert (mixer.heads, mixer.qkv.in_channels, mixer.qkv.out_channels, mixer.proj.in_channels) == (2, 72, 216, 72)
    assert mixer.lepe.groups == mixer.dwconv[0].groups == mixer.dwconv[1].num_features == mixer.norm.normalized_shape[0] == 72
    shapes = {name: tuple(parameter.shape) for name, parameter in mixer.ssm.named_parameters()}
    assert shapes == {
        "x_proj_weight": (44, 72, 1), "dt_projs_weight": (4, 72, 9), "dt_projs_bias": (4, 72), "A_logs": (288, 1), "Ds": (288,)
    }  # fmt: skip
    assert mixer.rpb[0].shape == (2, 17, 17) and mixer.scale == 36**-0.5


def test_kept_modules_keep_their_channels(small: Network) -> None:
    pruner = Pruner(small, PruneOptions(keep=("backbone.layer1", "neck")))
    pruned = dict(pruner.cut(pruner.plan(0.5)).model.named_modules())
    whole = dict(small.model.named_modules())
    for name in ("backbone.layer1.0.conv1", "backbone.layer1.0.conv2", "neck.lateral_convs.0.conv", "neck.fpn_convs.0.conv"):
        assert pruned[name].out_channels == whole[name].out_channels
    assert pruned["backbone.layer4.0.conv1"].out_channels < whole["backbone.layer4.0.conv1"].out_channels


def test_targets_are_reached_closely(small: Network) -> None:
    pruner, whole = Pruner(small, PruneOptions(round_to=2)), complexity(small.model, (240, 320))
    for kind, name in (("params", "parameters"), ("flops", "macs")):
        found = complexity(pruner.cut(plan_for(pruner, Target(kind, 0.6))).model, (240, 320))
        assert 0.55 < getattr(found, name) / getattr(whole, name) <= 0.6


def test_every_criterion_cuts_something_else_and_repeats_itself(small: Network) -> None:
    names = sorted(set(CRITERIA) - {"taylor", "hessian"})
    plans = {name: Pruner(small, PruneOptions(criterion=name, seed=3)).plan(0.5) for name in names}
    assert all(sum(map(len, plan)) > 100 for plan in plans.values())
    assert len({str(plan) for plan in plans.values()}) == len(names)
    assert Pruner(small, PruneOptions(criterion="random", seed=3)).plan(0.5) == plans["random"]
    assert Pruner(small, PruneOptions(criterion="random", seed=4)).plan(0.5) != plans["random"]


def test_magnitudes_are_those_of_the_weights(small: Network) -> None:
    """A channel whose weights are zero everywhere goes first."""
    network = _network(QUICKSTART, NARROW)
    conv: Any = network.model.get_submodule("backbone.layer3.0.conv1")
    norm: Any = network.model.get_submodule("backbone.layer3.0.bn1")
    reader: Any = network.model.get_submodule("backbone.layer3.0.conv2")
    zero = [1, 5, 6]
    conv.weight.data[zero], norm.weight.data[zero], reader.weight.data[:, zero] = 0, 0, 0
    pruner = Pruner(network, PruneOptions(scope="global", round_to=1))
    number = next(number for number, group in enumerate(pruner.groups) if group.name == "backbone.layer3.0.conv1")
    assert pruner.groups[number].scores.argsort()[:3].sort()[0].tolist() == zero


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.2, float("nan")])
def test_a_ratio_outside_is_refused(small: Network, ratio: float) -> None:
    pruner = Pruner(small)
    with pytest.raises(UserError, match="between 0 and 1"):
        pruner.plan(ratio)
    for kind in ("params", "flops", "latency"):
        with pytest.raises(UserError, match="between 0 and 1"):
            plan_for(pruner, Target(kind, ratio))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (PruneOptions(criterion="l3"), "unknown criterion 'l3'. Known: bn, fpgm"),
        (PruneOptions(scope="globl"), "unknown scope 'globl'. Did you mean 'global'"),
        (PruneOptions(keep=("backbone.layr1",)), "no module 'backbone.layr1'. Did you mean 'backbone.layer1'"),
        (PruneOptions(round_to=0), "--round-to is 0"),
        (PruneOptions(keep=("backbone", "neck", "decode_head")), "nothing of this network can be cut"),
    ],
    ids=str,
)
def test_wrong_options_are_told(small: Network, options: PruneOptions, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Pruner(small, options)


def test_weights_that_are_not_numbers_are_told() -> None:
    network = _network(QUICKSTART, NARROW)
    network.model.get_submodule("neck.fpn_convs.0.conv").weight.data[0, 0, 0, 0] = torch.nan  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match=r"not finite numbers \(neck.fpn_convs.0.conv.weight\)"):
        Pruner(network)


def test_a_target_below_the_strongest_cut_is_told(small: Network) -> None:
    with pytest.raises(CheckFailed, match=r"the strongest cut leaves \d+\.\d % of the params; 0.1 % were asked for"):
        plan_for(Pruner(small), Target("params", 0.001))
