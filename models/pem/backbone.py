"""PEM's small backbones: mmseg's STDC networks, which also give their map at stride 4."""

from __future__ import annotations

from typing import Any

from mmseg.models.backbones import STDCNet
from mmseg.registry import MODELS

from segc.core.errors import UserError, nearest


@MODELS.register_module()
class FourMapSTDC(STDCNet):
    """Image -> maps of 64, 256, 512 and 1024 channels at strides 4, 8, 16 and 32.

    Args:
        stdc_type: ``STDCNet1`` or ``STDCNet2``.
        kwargs: of mmseg's ``STDCNet``.

    Raises:
        UserError: an unknown variant.
    """

    def __init__(self, stdc_type: str, **kwargs: Any) -> None:
        if stdc_type not in self.arch_settings:
            raise UserError(f"STDC has no variant {stdc_type!r}.{nearest(stdc_type, self.arch_settings)}")
        kwargs = {"in_channels": 3, "channels": (32, 64, 256, 512, 1024), "bottleneck_type": "cat", "act_cfg": {"type": "ReLU"}, **kwargs}
        super().__init__(stdc_type, **kwargs)
        self.num_shallow_features = 1
