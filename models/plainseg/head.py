"""PlainSeg's heads for mmseg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmseg.registry import MODELS
from torch import Tensor, nn

from segc.core.contract import Size
from segc.models.mask2former.decoder import MaskedDecoderHead
from segc.models.mask2former.pixel_decoder import DeformablePixelDecoder
from segc.models.mask_classification import semantic_scores


class QuarterScores(MaskedDecoderHead):
    """A masked decoder whose scores are taken at a quarter of the image's size and then resized, as PlainSeg's authors do."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Scores (N, K, H, W) from 0, where H and W are four times the masks'."""
        classes, masks = self.predictions(inputs)[-1]
        size: Size = (masks.shape[2], masks.shape[3])
        scores = semantic_scores(classes, masks, size)
        return F.interpolate(scores, (4 * size[0], 4 * size[1]), mode="bilinear", align_corners=self.align_corners)

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: list[dict], test_cfg: Any) -> Tensor:
        """mmseg's entry for inference: see ``forward``."""
        return self(inputs)


@MODELS.register_module()
class PlainSegHead(QuarterScores):
    """The last map of a plain transformer, twice and four times its size, read by queries; all levels have the same size.

    Args:
        in_channels: of the map.
        num_classes: without "no object".
        num_levels: maps that the queries read in turn, each of a convolution of its own.
        channels: of queries and maps.
        norm_cfg: of the batch norms.
        kwargs: of ``MaskedDecoderHead``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, num_levels: int = 3, channels: int = 256, norm_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, num_levels=num_levels, channels=channels, out_channels=channels, **kwargs)
        norm, width = norm_cfg or {"type": "BN"}, channels * num_levels
        self.norm = build_norm_layer(norm, in_channels)[1]
        self.pixel_proj1 = ConvModule(in_channels, width, 3, padding=1, norm_cfg=norm)
        self.memory_proj = ConvModule(width, width, 3, padding=1, groups=num_levels, norm_cfg=norm, act_cfg=None)
        self.pixel_proj2 = ConvModule(width, channels, 3, padding=1, norm_cfg=norm)
        self.mask_feature = nn.Conv2d(channels, channels, 1)

    def init_weights(self) -> None:
        """Random weights as the published code draws them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        super().init_weights()

    def pixels(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of the masks at four times the map's size, and the levels at twice its size."""
        x = self.pixel_proj1(self.norm(_enlarged(inputs[-1])))
        levels = list(self.memory_proj(x).chunk(self.level_embed.num_embeddings, 1))
        return self.mask_feature(self.pixel_proj2(_enlarged(x))), levels


@MODELS.register_module()
class PlainSegHierHead(QuarterScores):
    """A pyramid of maps (see ``SlimPyramid``), encoded by one layer of deformable attention and read by queries.

    Args:
        in_channels: of the four maps, the finest first.
        num_classes: without "no object".
        channels: of tokens and queries.
        kwargs: of ``MaskedDecoderHead``.
    """

    def __init__(self, in_channels: list[int], num_classes: int, channels: int = 256, **kwargs: Any) -> None:
        super().__init__(num_classes, num_levels=len(in_channels) - 1, channels=channels, out_channels=channels, **kwargs)
        self.pixel_decoder = DeformablePixelDecoder(
            list(in_channels),
            channels,
            channels,
            num_layers=1,
            num_heads=8,
            num_points=4,
            hidden=1024,
            norm={"type": "GN", "num_groups": 32},
        )

    def init_weights(self) -> None:
        """Random weights as mmdet draws them."""
        self.pixel_decoder.init_weights()
        super().init_weights()

    def pixels(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``DeformablePixelDecoder``."""
        return self.pixel_decoder(list(inputs))


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, (2 * x.shape[2], 2 * x.shape[3]), mode="bilinear", align_corners=False)
