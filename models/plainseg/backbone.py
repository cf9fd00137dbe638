"""mmseg's plain vision transformers, with sizes they cannot take refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmseg.models.backbones import BEiT, VisionTransformer
from mmseg.registry import MODELS
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from segc.core.errors import UserError


@MODELS.register_module()
class PlainBEiT(BEiT):
    """mmseg's BEiT; its relative position biases fix the size of the image.

    Args:
        img_size: (height, width), multiples of the patch.
        kwargs: of mmseg's ``BEiT``.
    """

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Image (N, 3, H, W) -> maps (N, C, H / 16, W / 16) of the blocks in ``out_indices``.

        Raises:
            UserError: an image of another size than ``img_size``.
        """
        size, expected = tuple(inputs.shape[2:]), tuple(self.img_size)
        if size != expected:
            raise UserError(
                f"this BEiT takes images of {expected[0]}x{expected[1]} only; this one is {size[0]}x{size[1]}.",
                "Slide windows of that size (test_cfg=dict(mode='slide', ...)), or set model.backbone.img_size and train again.",
            )
        return super().forward(inputs)

    def _geometric_sequence_interpolation(self, src_size: int, dst_size: int, sequence: Tensor, num: int) -> Tensor:
        """mmseg's resizing of pre-trained biases, whose ``interp2d`` SciPy no longer has: the same cubic splines, the same places."""
        places = _geometric_places(src_size // 2, dst_size // 2)
        wanted = np.arange(-(dst_size // 2), dst_size // 2 + 1)
        heads = [RectBivariateSpline(places, places, sequence[:, head].view(src_size, src_size).numpy()) for head in range(num)]
        return torch.stack([torch.from_numpy(head(wanted, wanted)).flatten() for head in heads], -1).to(sequence)


@MODELS.register_module()
class PlainViT(VisionTransformer):
    """mmseg's vision transformer for images whose sides are multiples of the patch."""

    def forward(self, inputs: Tensor) -> tuple[Any, ...]:
        """Image (N, 3, H, W) -> maps (N, C, H / 16, W / 16) of the blocks in ``out_indices``.

        Raises:
            UserError: an image whose sides are no multiples of the patch.
        """
        height, width = inputs.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"this ViT takes images whose sides are multiples of {self.patch_size}; this one is {height}x{width}.",
                f"Pad them: model.data_preprocessor.test_cfg=dict(size_divisor={self.patch_size})",
            )
        return super().forward(inputs)


def _geometric_places(source: int, target: int) -> np.ndarray:
    """Places of ``2 source + 1`` pre-trained biases: steps that grow by one factor from 1, so that the last lies at ``target``."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        ratio = (left + right) / 2
        left, right = (left, ratio) if (1 - ratio**source) / (1 - ratio) > target else (ratio, right)
    steps = np.cumsum(ratio ** np.arange(source))
    return np.concatenate([-steps[::-1], [0], steps])
