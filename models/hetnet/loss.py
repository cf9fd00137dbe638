"""The loss of HetNet's masks."""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

_WINDOW = 31
_EDGE_WEIGHT = 5.0


@MODELS.register_module()
class StructureLoss(nn.Module):
    """Binary cross-entropy plus soft IoU, whose pixels weigh more near the edge of the mask (F3Net, arXiv 1911.11445).

    A pixel weighs 1 + 5 |mean of the mask over 31x31 pixels around it - mask|.

    Args:
        weighted_bce: weigh the pixels of the cross-entropy too, as the papers say. The published code passes ``reduce='none'``, which torch
            takes for "reduce", so that its cross-entropy is the plain mean: False trains as that code did.
        loss_weight: factor of the result.
    """

    def __init__(self, weighted_bce: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.weighted_bce, self.loss_weight = weighted_bce, loss_weight

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss of logits (N, 1, H, W) against a mask of zeros and ones of the same shape."""
        around = F.avg_pool2d(mask, _WINDOW, 1, _WINDOW // 2)
        weight = 1 + _EDGE_WEIGHT * (around - mask).abs()
        entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        if self.weighted_bce:
            entropy = (weight * entropy).sum((2, 3)) / weight.sum((2, 3))
        found = logits.sigmoid()
        common = (found * mask * weight).sum((2, 3))
        either = ((found + mask) * weight).sum((2, 3)) - common
        return self.loss_weight * (entropy.mean() + (1 - (common + 1) / (either + 1)).mean())
