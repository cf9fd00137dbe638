"""ExtremeC3Net's classifier as an mmseg head."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.models.extrememeta.layers import NormAct


@MODELS.register_module()
class ExtremeC3Head(BaseDecodeHead):
    """Logits at stride 2: batch norm, PReLU, 1x1 convolution without bias.

    The published network doubles the map before the convolution; the two commute, so that mmseg's resize of the logits does it here.

    Args:
        kwargs: of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = NormAct(self.in_channels)
        self.conv_seg = nn.Conv2d(self.in_channels, self.out_channels, 1, bias=False)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits (N, classes, H / 2, W / 2)."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
