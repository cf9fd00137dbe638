"""PEM's head for mmseg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from segc.models.mask_classification import Prediction
from segc.models.mask_head import MaskClassificationHead
from segc.models.pem.pixel_decoder import PixelDecoder
from segc.models.pem.transformer import QueryDecoder


@MODELS.register_module()
class PEMHead(MaskClassificationHead):
    """Maps at strides 4, 8, 16 and 32 -> scores of the classes at the image's size, from a light pixel decoder and six query layers.

    Args:
        in_channels: of the four maps.
        num_classes: without "no object".
        channels: of the pixel decoder's pyramid.
        query_channels: of the queries and of the masks' features.
        num_queries, num_heads, num_layers, feedforward_channels: of the transformer, see ``QueryDecoder``.
        norm_cfg: of the batch norms.
        kwargs: of ``MaskClassificationHead``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 128,
        query_channels: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        num_layers: int = 6,
        feedforward_channels: int = 2048,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        norm = norm_cfg or {"type": "BN"}
        self.pixel_decoder = PixelDecoder(in_channels, channels, query_channels, norm)
        self.predictor = QueryDecoder(num_classes, channels, query_channels, num_queries, num_heads, num_layers, feedforward_channels, norm)

    def predictions(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        """Before the first layer and after each: logits of the classes (N, Q, K + 1) and of the masks (N, Q, H / 4, W / 4)."""
        features, levels = self.pixel_decoder(inputs)
        return self.predictor(levels, features)
