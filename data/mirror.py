"""Mirror detection data (MSD, PMD) for mmseg: the dataset and the two transforms of its training that mmseg has not."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from segc.core.errors import UserError
from segc.core.images import decode_image, read_image_bytes


@DATASETS.register_module()
class MirrorDataset(BaseSegDataset):
    """Folders ``{train,test}/{image,mask}`` with ``train.txt`` and ``test.txt`` beside them, as MSD and PMD are published.

    Args:
        kwargs: of mmseg's ``BaseSegDataset``: ``data_root``, ``ann_file`` (names without suffix), ``data_prefix``, ``pipeline``.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("background", "mirror"), "palette": [[0, 0, 0], [255, 255, 255]]}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", **kwargs)


@TRANSFORMS.register_module()
class LoadBinaryMask(BaseTransform):
    """Grey mask of a record as train ids: adds ``gt_seg_map`` (H, W), 1 = object.

    Args:
        least: grey level from which a pixel is object. The published evaluation of mirrors counts 255 only.

    Raises:
        UserError: the mask cannot be read, or has another size than its image.
    """

    def __init__(self, least: int = 128) -> None:
        self.least = least

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the mask."""
        path = results["seg_map_path"]
        mask = decode_image(path, read_image_bytes(path), cv2.IMREAD_GRAYSCALE)
        if mask.shape != tuple(results["ori_shape"]):
            raise UserError(f"mask {path} is {mask.shape[0]}x{mask.shape[1]}, its image {'x'.join(map(str, results['ori_shape']))}.")
        results["gt_seg_map"] = (mask >= self.least).astype(np.uint8)
        results["seg_fields"] = [*results.get("seg_fields", []), "gt_seg_map"]
        return results


@TRANSFORMS.register_module()
class RandomBorderCrop(BaseTransform):
    """Cut a random strip, up to a share of each side, off an image and its labels (HetNet's training).

    Args:
        share: largest share of height and width that is cut off.
    """

    def __init__(self, share: float = 1 / 8) -> None:
        self.share = share

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crop ``img`` and every field of ``seg_fields``."""
        window = tuple(self._span(side) for side in results["img"].shape[:2])
        for field in ("img", *results.get("seg_fields", [])):
            results[field] = results[field][window]
        results["img_shape"] = results["img"].shape[:2]
        return results

    def _span(self, side: int) -> slice:
        cut = np.random.randint(max(1, int(side * self.share)))
        start = np.random.randint(cut + 1)
        return slice(start, start + side - cut)
