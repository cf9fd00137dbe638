"""How a loss and a point are written, and what a wrong one is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segc.compress.distill.points import Point, Taps, last_head
from segc.compress.distill.terms import KINDS, Term
from segc.core.errors import UserError


def test_a_loss_alone_has_the_defaults_of_its_kind() -> None:
    assert Term.parse("cwd") == Term("cwd", 3.0, None, None, {"temperature": 4.0})


def test_a_loss_names_points_and_options() -> None:
    term = Term.parse("feature:neck.convs.0=backbone[3],weight=0.5,similarity=cosine")
    assert (term.student, term.teacher, term.weight, term.options) == ("neck.convs.0", "backbone[3]", 0.5, {"similarity": "cosine"})
    assert Term.parse("boundary:head,radius=2").teacher == "head"
    assert Term.parse("boundary,radius=2").options["radius"] == 2


@pytest.mark.parametrize("text", [*KINDS, "kd:a.b,weight=0.5,temperature=2", "feature:a[1]=b.c,similarity=cosine", "dist,inter=0"])
def test_a_loss_is_told_as_it_is_written(text: str) -> None:
    term = Term.parse(text)
    assert Term.parse(str(term)) == term == Term(**term.as_dict())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cwt", "unknown loss 'cwt' in 'cwt'. Did you mean 'cwd'?"),
        ("kd,temprature=2", "no option 'temprature=2'. Did you mean 'temperature'?"),
        ("kd,similarity=mse", "the loss kd of 'kd,similarity=mse' has no option"),
        ("kd,temperature", "has no option 'temperature'"),
        ("kd,temperature=0", "temperature=0 in 'kd,temperature=0' is not above 0"),
        ("kd,weight=-1", "weight=-1"),
        ("kd,weight=nan", "weight=nan"),
        ("kd,weight=inf", "weight=inf"),
        ("boundary,strength=x", "is not 0 or more"),
        ("boundary,radius=1.5", "radius=1.5"),
        ("feature,similarity=cosin", "Did you mean 'cosine'?"),
        ("kd:", "'' names no module's output"),
        ("kd:a b", "'a b' names no module's output"),
        ("kd:a[x]", "'a[x]' names no module's output"),
    ],
)
def test_a_wrong_loss_is_told(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        Term.parse(text)
    assert told in str(caught.value)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "stage": nn.Conv2d(4, 5, 1)})
        self.several, self.decode_head, self.unused = _Several(), nn.Conv2d(5, 2, 1), nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone["stage"](self.backbone["stem"](images))
        self.pool(self.pool(features)).flatten(1)
        first, _ = self.several.forward(features)
        # As mmseg's heads do when they train: not through __call__.
        return self.decode_head.forward(first)


class _Several(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Any]:
        return features, [features.flatten(1)]


def test_taps_hear_calls_and_direct_forwards_and_leave_the_network_as_it_was() -> None:
    network = _Net()
    points = [Point.parse(text) for text in ("decode_head", "backbone.stem", "several[0]", "backbone.stem")]
    with Taps(network, points, "student").listening() as heard:
        output = network(torch.rand(1, 3, 6, 6))
        found = heard()
    assert found[0] is output and [tuple(each.shape[1:]) for each in found] == [(2, 6, 6), (4, 6, 6), (5, 6, 6), (4, 6, 6)]
    assert found[1] is found[3]
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("unused", "the student's unused ran not in one pass"),
        ("pool", "the student's pool ran 2 times in one pass"),
        ("several", "several gives 2 items. Name one of them: several[0] to several[1]."),
        ("several[2]", "several[2] cannot be taken: several gives 2 items"),
        ("several[1]", "several[1] gives 1 items; expected a map"),
        ("decode_head[0]", "decode_head gives a tensor of shape (1, 2, 6, 6). Name decode_head."),
    ],
)
def test_a_point_without_a_map_is_told(point: str, told: str) -> None:
    network = _Net()
    with Taps(network, [Point.parse(point)], "student").listening() as heard:
        network(torch.rand(1, 3, 6, 6))
        with pytest.raises(UserError) as caught:
            heard()
    assert told in str(caught.value)


@pytest.mark.parametrize(("name", "near"), [("backbone.stam", "backbone.stem, "), ("xyz", "backbone, several, decode_head, unused, pool")])
def test_a_wrong_module_lists_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match="the teacher has no module") as caught:
        Taps(_Net(), [Point(name)], "teacher")
    assert f"Nearest: {near}" in str(caught.value)


def test_the_logits_are_those_of_the_last_head() -> None:
    cascade = nn.Module()
    cascade.decode_head = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert (str(last_head(_Net())), str(last_head(cascade))) == ("decode_head", "decode_head.1")
