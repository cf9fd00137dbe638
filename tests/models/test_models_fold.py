"""Folded batch normalisations: equal answers in float64, and only where the data's way allows it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segc.models.fold import fold_batch_norms
from segc.models.network import load_network
from tests.models.seeded import fill


class _Block(nn.Module):
    """Parts with weights that no fold leaves unnoticed; ``forward`` is a subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=bias) for bias in (False, True))


class _OtherOrder(_Block):
    """Registered norm, first, second; the data goes first, norm. A fold by registration would take another pair."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


class _TwoReaders(_Block):
    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x)
        return self.norm(found) + self.second(found)


class _CalledTwice(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(self.first(x)))


class _SharedNorm(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) + self.norm(self.second(x))


class _NormFirst(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.norm(x))


class _InBetween(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x).relu_())


@pytest.mark.parametrize(
    ("block", "folded"), [(_OtherOrder, 1), (_TwoReaders, 0), (_CalledTwice, 0), (_SharedNorm, 0), (_NormFirst, 0), (_InBetween, 0)]
)
def test_only_a_norm_that_reads_a_convolution_alone_is_folded(block: type[_Block], folded: int) -> None:
    module = block().double().eval()
    fill(module.state_dict(), 0)
    images = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        before = module(images)
        assert fold_batch_norms(module, lambda: module(images)) == folded
        torch.testing.assert_close(module(images), before, rtol=1e-12, atol=1e-12)
    assert isinstance(module.norm, nn.Identity) == bool(folded)


@pytest.mark.parametrize(
    ("config", "folded"), [("segc::quickstart/quickstart.py", 29), ("mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py", 66)]
)
def test_networks_answer_as_before(config: str, folded: int) -> None:
    model = load_network(config, None, random_weights=True).model.double()
    images = torch.randn(1, 3, 128, 192, dtype=torch.float64)

    def logits() -> Tensor:
        found: Tensor = model.decode_head(model.extract_feat(images))
        return found

    with torch.no_grad():
        before = logits()
        assert fold_batch_norms(model, logits) == folded
        torch.testing.assert_close(logits(), before, rtol=1e-9, atol=1e-9)
