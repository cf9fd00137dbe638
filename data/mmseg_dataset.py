"""The datasets of this package as an mmseg dataset: training reads the very pairs and train ids that validation reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from segc.data.dataset import open_dataset, to_train_ids
from segc.data.embedded import embedded_dataset
from segc.data.labels import read_stored_label


@DATASETS.register_module()
class SegcDataset(BaseSegDataset):
    """``open_dataset`` for mmseg configs: ``dict(type='SegcDataset', root=..., layout=..., split='train', pipeline=[...])``.

    Its pipeline loads labels with ``LoadTrainIds``, which refuses values that are no class and maps by one table look-up; mmseg's
    ``LoadAnnotations`` gives the same train ids for sound 8-bit labels.

    Args:
        root: the dataset's folder; None is the embedded dataset.
        layout: see ``open_dataset``.
        split: see ``open_dataset``.
        kwargs: of ``BaseSegDataset`` (``pipeline``, ``indices``, ``test_mode``, ...).

    Raises:
        UserError: see ``open_dataset``.
    """

    def __init__(self, root: str | Path | None = None, layout: str | None = None, split: str = "train", **kwargs: Any) -> None:
        self.segmentation_set = open_dataset(root or embedded_dataset(), layout, split)
        spec = self.segmentation_set.spec
        metainfo = {"classes": spec.classes, "palette": [list(colour) for colour in spec.palette]}
        super().__init__(metainfo=metainfo, ignore_index=spec.ignore_index, reduce_zero_label=spec.reduce_zero_label, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record a pair."""
        spec = self.segmentation_set.spec
        common = {"reduce_zero_label": spec.reduce_zero_label, "label_map": spec.label_map or None}
        return [
            {"img_path": str(pair.image), "seg_map_path": str(pair.label), "seg_fields": [], **common} for pair in self.segmentation_set
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Record ``idx`` with the classes' description, which is added here because mmengine pickles every stored record by itself."""
        return {**super().get_data_info(idx), "spec": self.segmentation_set.spec}


@TRANSFORMS.register_module()
class LoadTrainIds(BaseTransform):
    """Label of a ``SegcDataset`` record as train ids: adds ``gt_seg_map`` (H, W).

    Raises:
        UserError: see ``SegmentationSet.read_label``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label."""
        path = Path(results["seg_map_path"])
        results["gt_seg_map"] = to_train_ids(read_stored_label(path), results["spec"], path)
        results["seg_fields"] = [*results["seg_fields"], "gt_seg_map"]
        return results
