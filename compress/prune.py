"""Structured pruning: remove channels and heads until the network is as small, as cheap or as fast as asked, as a config and tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segc.compress.choice import SCOPES, choose
from segc.compress.criteria import CRITERIA, make_score
from segc.compress.groups import TRACED, Group, find_groups
from segc.core.errors import CheckFailed, UserError, nearest
from segc.models.network import Network, build_model, check_weights
from segc.models.reshaped import changed_shapes, reshaped_config
from segc.models.surgery import separate_attention

# The strongest ratio that is tried for a target.
_HIGHEST = 0.97

# Numbers of the units that each group loses.
Plan = list[list[int]]


@dataclass(frozen=True)
class PruneOptions:
    """How channels are chosen.

    criterion: see ``segc.compress.criteria``. scope, round_to: see ``choose``. keep: names of modules whose output channels stay; a name
    stands for everything inside it. seed: of ``random`` and of the order of training images. images: how many of them the criteria with
    gradients look at.
    """

    criterion: str = "l1"
    scope: str = "global"
    round_to: int = 8
    keep: Sequence[str] = ()
    seed: int = 0
    images: int = 32


@dataclass(frozen=True)
class Change:
    """A group in a plan: its first module, how many others share its channels, units before and after, and what a unit is."""

    name: str
    members: int
    before: int
    after: int
    unit: str


class Pruner:
    """A network made ready for pruning: its groups and their scores, found once; any number of plans can be made of them.

    Args:
        network: left as it is.
        options: how channels are chosen.

    Raises:
        UserError: an unknown criterion, scope or module, weights that are not numbers, or nothing that can be cut.
    """

    def __init__(self, network: Network, options: PruneOptions | None = None) -> None:
        self.network, self.options = network, options or PruneOptions()
        _check_options(self.options)
        check_weights(network.model)
        self.model = copy.deepcopy(network.model).eval().requires_grad_(True)
        self.separated = bool(separate_attention(self.model))
        kept = modules_named(self.model, self.options.keep)
        score = make_score(self.options.criterion, self.model, network.cfg, self.options.images, self.options.seed)
        self._shadow = copy.deepcopy(self.model).to("meta")
        self.groups = self._runnable(find_groups(self.model, score, kept))
        if not self.groups:
            raise UserError(
                f"nothing of this network can be cut by {self.options.criterion!r}: no group of channels can be followed and scored.",
                "Try --criterion l1, and fewer --keep.",
            )

    def plan(self, ratio: float) -> Plan:
        """Units that each group loses when about ``ratio`` of all go.

        Raises:
            UserError: a ratio that is not between 0 and 1.
        """
        if not 0 < ratio < 1:
            raise UserError(f"the pruning ratio is {ratio:g}; expected a share between 0 and 1, such as 0.5.")
        return choose(self.groups, ratio, self.options.scope, self.options.round_to)

    def changes(self, plan: Plan) -> list[Change]:
        """A plan as rows of a table."""
        return [
            Change(group.name, len(group.members), len(group.units), len(group.units) - len(gone), group.unit)
            for group, gone in zip(self.groups, plan, strict=True)
        ]

    def cut(self, plan: Plan) -> Network:
        """The network without the plan's channels, as its own config builds it, filled with the weights that were left."""
        model = _without(self.model, self.groups, plan)
        state = model.state_dict()
        cfg = reshaped_config(self.network.cfg, changed_shapes(self.model.state_dict(), state), self.separated)
        rebuilt: Any = build_model(cfg)
        if not hasattr(model, "auxiliary_head") and hasattr(rebuilt, "auxiliary_head"):
            del rebuilt.auxiliary_head
        rebuilt.load_state_dict(state)
        return Network(rebuilt, cfg, self.network.classes, self.network.palette)

    def outline(self, plan: Plan) -> nn.Module:
        """The network without the plan's channels and without values (on the meta device): enough to count it."""
        return _without(self._shadow, self.groups, plan)

    def _runnable(self, groups: list[Group]) -> list[Group]:
        """Those groups that the network runs without: code may repeat a width that the tracer does not see."""
        half = choose(groups, 0.5, "local", self.options.round_to)
        if _runs(_without(self._shadow, groups, half)):
            return groups
        alone = [([group], choose([group], 0.5, "local", self.options.round_to)) for group in groups]
        return [group for group, (single, plan) in zip(groups, alone, strict=True) if _runs(_without(self._shadow, single, plan))]


def reach(pruner: Pruner, share: float, measure: Callable[[Plan], float], what: str, steps: int) -> Plan:
    """The plan that cuts least among those that leave at most ``share`` of what the whole network costs; found by halving the ratio.

    Args:
        pruner: makes the plans.
        share: of the cost, between 0 and 1.
        measure: what a plan leaves, as a share of the whole network's cost.
        what: the name of the cost in messages.
        steps: how many halvings.

    Raises:
        CheckFailed: even the strongest cut leaves more.
    """
    low, high = 0.0, _HIGHEST
    best = pruner.plan(high)
    least = measure(best)
    if least > share:
        raise CheckFailed(f"the strongest cut leaves {100 * least:.1f} % of the {what}; {100 * share:g} % were asked for.")
    for _ in range(steps):
        middle = (low + high) / 2
        plan = pruner.plan(middle)
        if measure(plan) <= share:
            best, high = plan, middle
        else:
            low = middle
    return best


def _check_options(options: PruneOptions) -> None:
    for what, value, known in (("criterion", options.criterion, CRITERIA), ("scope", options.scope, SCOPES)):
        if value not in known:
            raise UserError(f"unknown {what} {value!r}.{nearest(value, known)}")
    if options.round_to < 1:
        raise UserError(f"--round-to is {options.round_to}; expected 1 or more, such as 8.")


def modules_named(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The named modules and all inside them.

    Raises:
        UserError: the network has no such module; the nearest name is told.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise UserError(f"the network has no module {name!r}.{nearest(name, modules)}")
    return [module for name in names for module in modules[name].modules()]


def _without(model: nn.Module, groups: Sequence[Group], plan: Plan) -> nn.Module:
    """A copy of ``model`` without the plan's channels."""
    narrower = copy.deepcopy(model)
    for (path, side), (cut, indices) in _by_module(groups, plan).items():
        _cut(narrower, path, side, cut, sorted(indices))
    return narrower


def _runs(model: nn.Module) -> bool:
    """Whether a network on the meta device takes an image."""
    try:
        with torch.no_grad():
            model(torch.empty(TRACED, device="meta"), mode="tensor")
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def _by_module(groups: Sequence[Group], plan: Plan) -> dict[tuple[str, str], tuple[Callable[..., Any], set[int]]]:
    """(path, side) -> what cuts it, and all its channels that go: a layer behind a concatenation is in several groups."""
    found: dict[tuple[str, str], tuple[Callable[..., Any], set[int]]] = {}
    for group, numbers in zip(groups, plan, strict=True):
        gone = {channel for number in numbers for channel in group.units[number]}
        for member in group.members if gone else ():
            lost = {index for index, root in zip(member.indices, member.roots, strict=True) if root in gone}
            found.setdefault((member.path, member.side), (member.cut, set()))[1].update(lost)
    return found


def _cut(model: nn.Module, path: str, side: str, cut: Callable[..., Any], indices: list[int]) -> None:
    if side != "parameter":
        cut(model.get_submodule(path), indices)
        return
    owner, _, leaf = path.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, leaf, cut(getattr(module, leaf), indices))
