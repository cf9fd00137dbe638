"""What the heads of mask classification have in common towards mmseg: class scores of every pixel, and the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from segc.core.contract import Size
from segc.models.mask_classification import Prediction, semantic_scores


class MaskClassificationHead(BaseModule):
    """Maps of a backbone -> scores of the classes: sums over queries of class times mask probability.

    ``gives_logits`` tells the deploy graph that a softmax of these scores means nothing.

    Args:
        num_classes: K, without "no object".
        loss_decode: arguments of ``MaskClassificationLoss``.
        ignore_index: label of pixels that the loss leaves out.
        init_cfg: of mmengine.
    """

    align_corners = False
    gives_logits = False

    def __init__(
        self, num_classes: int, loss_decode: Mapping[str, Any] | None = None, ignore_index: int = 255, init_cfg: Any = None
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = self.out_channels = num_classes
        self.ignore_index = ignore_index
        self.loss_decode = MODELS.build({"type": "MaskClassificationLoss", "num_classes": num_classes, **(loss_decode or {})})

    @abstractmethod
    def predictions(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        """Predictions, first to last: logits of the classes (N, Q, K + 1) and of the masks (N, Q, h, w)."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores (N, K, 4 h, 4 w) from 0, where h and w are those of the masks."""
        return semantic_scores(*self.predictions(inputs)[-1])

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: list[dict], test_cfg: Any) -> Tensor:
        """mmseg's entry for inference: scores (N, K, H, W) at the size of the network's input."""
        meta = batch_img_metas[0]
        size: Size = tuple(meta.get("pad_shape", meta["img_shape"])[:2])
        return semantic_scores(*self.predictions(inputs)[-1], size)

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list[Any], train_cfg: Any) -> dict[str, Tensor]:
        """Losses of every prediction, the last one's without a number.

        Args:
            inputs: maps of the backbone.
            batch_data_samples: mmseg's samples with ``gt_sem_seg``.
            train_cfg: not used.
        """
        labels = torch.cat([sample.gt_sem_seg.data for sample in batch_data_samples])
        return self.loss_decode(self.predictions(inputs), labels, self.ignore_index)
