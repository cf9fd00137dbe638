"""SegNeXt's head with its first guess drawn once: the same in every call, and what mmseg's own gives for that guess."""

from __future__ import annotations

import torch
from mmseg.models.decode_heads import LightHamHead

from segc.models.factorization import fix_first_guess


@torch.no_grad()
def test_every_call_gives_what_mmseg_gives_for_the_first_guess() -> None:
    torch.manual_seed(3)
    head = LightHamHead(ham_channels=16, ham_kwargs={"MD_R": 4}, in_channels=[8, 8], in_index=[0, 1], channels=8, num_classes=3).eval()
    maps = [torch.randn(1, 8, 6, 8), torch.randn(1, 8, 3, 4)]
    keys = list(head.state_dict())
    assert not torch.equal(head(maps), head(maps)), "mmseg draws anew"
    torch.manual_seed(0)
    wanted = head(maps)
    fix_first_guess(head)
    assert torch.equal(head(maps), wanted) and torch.equal(head(maps), wanted)
    assert list(head.state_dict()) == keys
    guess = head.hamburger.ham.bases
    fix_first_guess(head)
    assert head.hamburger.ham.bases is guess, "drawn once"
