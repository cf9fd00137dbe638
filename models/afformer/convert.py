"""Published AFFormer weights -> ours. The names are the same; the published state dict repeats shared layers and holds an unused one."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from segc.core.errors import UserError

# Each token layer refers to the positional convolution and to the filters of its stage, under three names.
_ALIAS = re.compile(r"MHCA_layers\.\d+\.(?:factoratt_crpe\.)?(cpe|crpe)\.")
_UNUSED = ("decode_head.align.", "cls_head.")
_PREFIX = "backbone."
_LINEAR = (".qkv.weight", ".factoratt_crpe.proj.weight", ".mlp.fc1.weight", ".mlp.fc2.weight")


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code -> ours: repeated tensors are dropped, linear layers become 1x1 convolutions.

    An ImageNet file holds the backbone alone, without prefix, and a classifier, which is dropped. Our own names stay.

    Raises:
        UserError: a repeated tensor differs from the one it repeats, so that this is no AFFormer of one filter set a stage.
    """
    whole = any(name.startswith(_PREFIX) for name in state)
    kept = {}
    for name, tensor in state.items():
        own = _ALIAS.sub(r"\1.", name)
        if own != name:
            _check_alias(state, name, own)
        elif not name.startswith(_UNUSED):
            kept[name if whole else _PREFIX + name] = tensor[:, :, None, None] if name.endswith(_LINEAR) and tensor.dim() == 2 else tensor
    return kept


def _check_alias(state: dict[str, Tensor], name: str, own: str) -> None:
    if own not in state or not torch.equal(state[own], state[name]):
        found = "differs from" if own in state else "has no"
        raise UserError(f"{name} {found} {own}, which it should repeat: AFFormer shares these layers within a stage.")
