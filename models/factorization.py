"""SegNeXt's head factorises a map from a random first guess; a deployed function must give the same for the same image."""

from __future__ import annotations

import torch
from torch import nn


def fix_first_guess(model: nn.Module) -> None:
    """Draw the first guess of every factorisation in ``model`` once, in place, instead of anew in every call.

    mmseg's modules do so themselves with ``rand_init=False``; but they draw from the running generator, and keep it as a weight.
    """
    from mmseg.models.decode_heads.ham_head import LightHamHead

    for head in (module for module in model.modules() if isinstance(module, LightHamHead)):
        ham = head.hamburger.ham
        if ham.rand_init:
            guess = torch.rand(ham.S, head.ham_channels // ham.S, ham.R, generator=torch.Generator().manual_seed(0))
            ham.register_buffer("bases", nn.functional.normalize(guess, dim=1), persistent=False)
            ham.rand_init = False
