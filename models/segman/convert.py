"""Published SegMAN weights -> ours. Whole networks have our names already; encoder files lack the prefix and hold a classifier."""

from __future__ import annotations

from torch import Tensor

_PREFIX = "backbone."
_CLASSIFIER = "classifier."


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code -> ours: an ImageNet encoder becomes the backbone, without its classifier."""
    if any(name.startswith(_PREFIX) for name in state):
        return state
    return {_PREFIX + name: tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIER)}
