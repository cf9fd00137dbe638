"""Published ExtremeC3Net weights (second training stage) -> ours."""

from __future__ import annotations

from torch import Tensor

from segc.models.renaming import renamed

_RULES = (
    (r"^encoder\.level1\.(bn|act)\.", r"backbone.level1.norm.\1."),
    (r"^encoder\.", "backbone."),
    (r"^upsample\.", "backbone.upsample."),
    (r"^Fine\.", "backbone.fine."),
    (r"^classifier\.0\.", "decode_head.norm."),
    (r"^classifier\.2\.", "decode_head.conv_seg."),
)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code -> ours; our own names stay."""
    return {renamed(name, _RULES): tensor for name, tensor in state.items()}
