"""Names that detectron2 gives to a network's tensors."""

from __future__ import annotations

from segc.models.renaming import Rule, renamed

_RESNET: tuple[Rule, ...] = (
    (r"^stem\.", ""),
    (r"^res(\d)\.", lambda found: f"layer{int(found[1]) - 1}."),
    (r"conv(\d)\.norm\.", r"bn\1."),
    (r"shortcut\.norm\.", "downsample.1."),
    (r"shortcut\.", "downsample.0."),
)


def resnet_name(name: str) -> str:
    """mmseg's name (``layer2.0.bn1.weight``) of a tensor of detectron2's ResNet (``res3.0.conv1.norm.weight``); no prefix on either."""
    return renamed(name, _RESNET)
