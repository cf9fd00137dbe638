"""AFFormer's head for mmseg: one convolution and the classifier, on the last map alone."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class AFFormerHead(BaseDecodeHead):
    """Logits at the size of the map ``in_index`` names: 1x1 convolution, norm, ReLU, dropout, classifier.

    Args:
        kwargs: of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.squeeze = ConvModule(self.in_channels, self.channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits (N, classes, H, W)."""
        return self.cls_seg(self.squeeze(self._transform_inputs(inputs)))
