"""Published HetNet weights -> ours."""

from __future__ import annotations

import re

from torch import Tensor

from segc.models.renaming import renamed

# The backbone was converted from Torch7: a block is nested sequences without names.
_BLOCK = (
    (r"\.0\.0\.0\.0\.", ".conv1."),
    (r"\.0\.0\.0\.1\.", ".bn1."),
    (r"\.0\.0\.0\.3\.", ".conv2."),
    (r"\.0\.0\.0\.4\.", ".bn2."),
    (r"\.0\.0\.1\.", ".conv3."),
    (r"\.0\.0\.2\.", ".bn3."),
    (r"\.0\.1\.([01])\.", r".downsample.\1."),
)
_BACKBONE = (
    (r"^bkbone\.layer0\.0\.", "backbone.conv1."),
    (r"^bkbone\.layer0\.1\.", "backbone.bn1."),
    (r"^bkbone\.layer1\.1\.(\d+)", r"backbone.layer1.\1"),
    (r"^bkbone\.layer([234])\.(\d+)", r"backbone.layer\1.\2"),
)
_HEAD = (
    (r"^pyramid_pooling\.conv(\d)\.", lambda found: f"pyramid_pooling.convs.{int(found[1]) - 1}."),
    (r"^conv1\.(\d)\.", r"reduce.\1."),
    (r"^head\.0\.", "edge."),
    (r"^head\.1\.", "conv_seg."),
    (r"^head\.([2-5])\.", lambda found: f"coarser.{int(found[1]) - 2}."),
    (r"\.subspaces\.0\.", "."),
    (r"\.down\.0\.", ".down.conv."),
    (r"\.down\.1\.", ".down.bn."),
    (r"\.(conv|bn)_([12])\.", r".conv_\2.\1."),
    (r"\.(conv|bn)1\.(?=weight|bias|running|num)", r".conv1.\1."),
    (r"\.conv\.0\.(?=weight)", ".conv."),
    (r"\.conv\.1\.(?=weight|bias|running|num)", ".bn."),
)
_UNUSED = re.compile(r"^conv1\.[345]\.")
_OWN = ("backbone.", "decode_head.")


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code -> ours; our own names stay.

    Three convolutions (``conv1.3`` to ``conv1.5``) that the official code never runs are dropped.
    """
    return {_own(name): tensor for name, tensor in state.items() if not _UNUSED.match(name)}


def _own(name: str) -> str:
    if name.startswith(_OWN):
        return name
    if not name.startswith("bkbone."):
        return "decode_head." + renamed(name, _HEAD)
    name = renamed(name, _BACKBONE)
    stage = re.match(r"backbone\.layer\d\.\d+", name)
    return stage[0] + renamed(name[stage.end() :], _BLOCK, once=True) if stage else name
