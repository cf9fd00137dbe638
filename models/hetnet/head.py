"""HetNet's head for mmseg: one mask logit a pixel, and in training an edge and four coarser masks beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.core.errors import UserError
from segc.models.hetnet.layers import CrossFusion, Fusion, IntensityContrast, PyramidPooling, ReflectionSemantics, conv, resize

_COARSER = 4


@MODELS.register_module()
class HetNetHead(BaseDecodeHead):
    """Maps at strides 2, 4, 8, 16 and 32 -> mask logits (N, 1, H / 2, W / 2).

    The classes are background and mirror, with one output channel: mmseg's ``num_classes=2, out_channels=1, threshold=0.5``.

    Args:
        kwargs: of mmseg's ``BaseDecodeHead``; ``in_channels`` and ``in_index`` name the five maps, ``loss_decode`` is that of the masks.

    Raises:
        UserError: not two classes with one output channel.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if (self.num_classes, self.out_channels) != (2, 1):
            raise UserError(
                f"HetNet got num_classes={self.num_classes} and out_channels={self.out_channels}; it tells mirror from background.",
                "Set model.decode_head=dict(num_classes=2, out_channels=1, threshold=0.5).",
            )
        width = self.channels
        *low, fourth, fifth = self.in_channels
        self.pyramid_pooling = PyramidPooling(fifth, width)
        self.ca1, self.ca2 = ReflectionSemantics(fourth, width), ReflectionSemantics(fifth, width)
        self.reduce = nn.ModuleList(conv(channels, width, 1) for channels in low)
        self.ipm = nn.ModuleList(IntensityContrast(width) for _ in low)
        self.ffm = nn.ModuleList(Fusion(width) for _ in self.in_channels)
        self.cam = CrossFusion(width)
        self.refine = conv(width, width, 1)
        self.conv_seg, self.edge = _logit(width), _logit(width)
        self.coarser = nn.ModuleList(_logit(width) for _ in range(_COARSER))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits of the mask (N, 1, H / 2, W / 2)."""
        return self.cls_seg(self._fuse(inputs)[0])

    def loss(self, inputs: list[Tensor], batch_data_samples: list[Any], train_cfg: Any) -> dict[str, Tensor]:
        """Losses of the mask, of its edge, and of the coarser masks with weights 1/2, 1/4, 1/8 and 1/16.

        Args:
            inputs: maps of the backbone.
            batch_data_samples: mmseg's samples with ``gt_sem_seg`` (1 = mirror) and ``gt_edge_map`` (1 = edge).
            train_cfg: not used.
        """
        mask = torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples]).float()
        edge = torch.stack([sample.gt_edge_map.data for sample in batch_data_samples]).float()
        size = mask.shape[2:]
        finest, outline, *coarser = self._fuse(inputs)
        losses = {
            "loss_mask": self.loss_decode(resize(self.cls_seg(finest), size), mask),
            "loss_edge": F.binary_cross_entropy_with_logits(resize(self.edge(outline), size), edge),
        }
        for level, (logit, x) in enumerate(zip(self.coarser, coarser, strict=True), start=1):
            losses[f"loss_mask_{level}"] = self.loss_decode(resize(logit(x), size), mask) / 2**level
        return losses

    def _fuse(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Features of the mask, of the edge, and of the coarser masks, finest first."""
        *low, fourth, fifth = self._transform_inputs(inputs)
        first, second, third = (mix(reduce(x)) for mix, reduce, x in zip(self.ipm, self.reduce, low, strict=True))
        semantic = self.ca2(fifth)
        pooled = resize(self.pyramid_pooling(fifth), semantic.shape[2:])
        fused3 = self.ffm[4](semantic, pooled)
        middle = self.ca1(fourth)
        fused3 = resize(fused3, middle.shape[2:])
        fused2 = self.ffm[3](middle, fused3)
        fused1 = self.ffm[2](second, resize(third, second.shape[2:]))
        half = ((fused1.shape[2] + 1) // 2, (fused1.shape[3] + 1) // 2)
        fused2 = resize(fused2, half)
        fused1 = self.cam(fused2, fused1)
        outline = self.ffm[1](resize(second, first.shape[2:]), first)
        fused1 = resize(fused1, outline.shape[2:])
        return self.refine(self.ffm[0](fused1, outline)), outline, fused1, fused2, fused3, pooled


def _logit(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 1, 3, padding=1)
