"""Published PEM weights -> ours."""

from __future__ import annotations

import re

from torch import Tensor

from segc.models.detectron2 import resnet_name
from segc.models.renaming import renamed

_HEAD = (
    (r"^sem_seg_head\.", "decode_head."),
    (r"\.mlp\.0\.mlp\.", ".mlp."),
    (r"\.transformer_(cross_attention|self_attention|ffn)_layers\.(\d+)\.", r".layers.\2.\1."),
    (r"\.mask_embed\.layers\.(\d)", lambda found: f".mask_embed.{2 * int(found[1])}"),
)
_STDC = ((r"conv_list\.", "layers."), (r"avd_layer\.0\.", "downsample.conv."), (r"avd_layer\.1\.", "downsample.bn."))
# Number of blocks in the three stages of an STDC network, by its last block.
_BLOCKS = {7: (2, 2, 2), 13: (4, 5, 3)}
_STEM = 2
# Second names of the blocks, the classifier of ImageNet, and the weights of the loss.
_UNUSED = re.compile(r"^(backbone\.)?(x\d+|fc|bn|linear|conv_last)\.|^criterion\.")


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code, or of an STDC or ResNet trained on ImageNet, -> ours; our own names stay."""
    blocks = [int(found[1]) for name in state if (found := re.match(r"(?:backbone\.)?features\.(\d+)\.", name))]
    depths = _BLOCKS.get(max(blocks, default=0), ())
    return {_own(name, depths): tensor for name, tensor in state.items() if not _UNUSED.match(name)}


def _own(name: str, depths: tuple[int, ...]) -> str:
    if name.startswith("sem_seg_head."):
        return renamed(name, _HEAD)
    if name.startswith("decode_head."):
        return name
    name = name.removeprefix("backbone.")
    if found := re.match(r"features\.(\d+)\.(.*)", name):
        return f"backbone.stages.{_place(int(found[1]), depths)}.{renamed(found[2], _STDC)}"
    return "backbone." + resnet_name(name)


def _place(block: int, depths: tuple[int, ...]) -> str:
    """Stage and index in it of a block of the flat sequence."""
    index = block - _STEM
    for stage, depth in enumerate(depths if index >= 0 else (), start=_STEM):
        if index < depth:
            return f"{stage}.{index}"
        index -= depth
    return str(block)
