"""HetNet's backbone for mmseg, and the data preprocessor that changes the training size from batch to batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmseg.models.backbones import ResNeXt
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class HetNetBackbone(ResNeXt):
    """ResNeXt that also gives its stem's map: image -> maps at strides 2, 4, 8, 16 and 32.

    Args:
        kwargs: of mmseg's ``ResNeXt``.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The five maps, finest first."""
        x = self.relu(self.norm1(self.conv1(images)))
        maps = [x]
        x = self.maxpool(x)
        for name in self.res_layers:
            x = getattr(self, name)(x)
            maps.append(x)
        return tuple(maps)


@MODELS.register_module()
class MultiScalePreProcessor(SegDataPreProcessor):
    """mmseg's data preprocessor, whose training batches are resized to a random square each.

    Args:
        sizes: sides to draw from.
        kwargs: of mmseg's ``SegDataPreProcessor``.
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = tuple(sizes)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """See mmseg; masks and edges are resized by the nearest pixel."""
        batch = super().forward(data, training)
        if training:
            size = (random.choice(self.sizes),) * 2
            batch["inputs"] = F.interpolate(batch["inputs"], size, mode="bilinear", align_corners=False)
            for sample in batch["data_samples"]:
                for field in (sample.gt_sem_seg, sample.gt_edge_map):
                    resized = F.interpolate(field.data[None].float(), size).to(field.data.dtype)[0]
                    field.set_field(resized, "data")
        return batch
