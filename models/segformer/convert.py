"""NVIDIA's SegFormer weights -> mmseg's names (arXiv 2105.15203). The encoders are equal; the decode heads are not."""

from __future__ import annotations

import re

import torch
from torch import Tensor

_STAGE = re.compile(r"^(?:backbone\.)?(patch_embed|block|norm)(\d)\.(.+)$")
_FFN = {"mlp.fc1": "ffn.layers.0", "mlp.dwconv.dwconv": "ffn.layers.1", "mlp.fc2": "ffn.layers.4"}
_KV, _Q, _JOINED = "attn.kv.", "attn.q.", "attn.attn.in_proj_"
_HEAD_OF_IMAGENET = "head."


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code -> mmseg's: encoder tensors renamed, query and key-value projections joined, the rest as it is.

    NVIDIA's decode head (768 channels wide from B2, plain linear layers, other order) is another head than mmseg's: its tensors keep
    their names and are reported as unexpected.
    """
    if not any(_STAGE.match(name) for name in state):
        return state
    joined = {name.replace(_KV, _Q): tensor for name, tensor in state.items() if _KV in name}
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _STAGE.match(name)
        if match is None:
            if not name.startswith(_HEAD_OF_IMAGENET):
                kept[name] = tensor
        elif _KV not in name:
            value = torch.cat([tensor, joined[name]]) if name in joined else tensor
            kept["backbone.layers." + _mmseg_name(*match.groups())] = _as_conv(name, value)
    return kept


def _mmseg_name(kind: str, stage: str, rest: str) -> str:
    index = int(stage) - 1
    if kind == "norm":
        return f"{index}.2.{rest}"
    if kind == "patch_embed":
        return f"{index}.0.{rest.replace('proj.', 'projection.')}"
    block, _, rest = rest.partition(".")
    for theirs, ours in _FFN.items():
        rest = rest.replace(theirs, ours)
    rest = rest.replace("attn.proj.", "attn.attn.out_proj.").replace(_Q, _JOINED)
    return f"{index}.1.{block}.{rest}"


def _as_conv(name: str, tensor: Tensor) -> Tensor:
    """mmseg's feed-forward layers are 1x1 convolutions."""
    linear = name.endswith(("mlp.fc1.weight", "mlp.fc2.weight"))
    return tensor[:, :, None, None] if linear and tensor.dim() == 2 else tensor
