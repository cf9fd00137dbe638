"""Mirror detection data: published folders in, train ids out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.core.errors import UserError
from segc.data.mirror import LoadBinaryMask, MirrorDataset, RandomBorderCrop

STEPS = [{"type": "LoadImageFromFile"}, {"type": "LoadBinaryMask", "least": 128}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training pairs, of which train.txt names one."""
    for folder in ("image", "mask"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 8:20], mask[0, 0] = 255, 100
    for name in ("7_a", "9_b"):
        cv2.imwrite(str(tmp_path / "train/image" / f"{name}.jpg"), np.full((20, 30, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / "train/mask" / f"{name}.png"), mask)
    (tmp_path / "train.txt").write_text("9_b\n")
    return tmp_path


def _open(root: Path) -> MirrorDataset:
    from mmengine.registry import init_default_scope

    init_default_scope("mmseg")
    prefix = {"img_path": "train/image", "seg_map_path": "train/mask"}
    return MirrorDataset(data_root=str(root), ann_file="train.txt", data_prefix=prefix, pipeline=STEPS)


def test_named_pairs_are_read_as_two_classes(root: Path) -> None:
    dataset = _open(root)
    assert (len(dataset), dataset.metainfo["classes"]) == (1, ("background", "mirror"))
    record = dataset[0]
    assert Path(record["img_path"]).name == "9_b.jpg"
    expected = np.zeros((20, 30), np.uint8)
    expected[5:10, 8:20] = 1
    assert np.array_equal(record["gt_seg_map"], expected)


def test_a_mask_of_another_size_is_refused(root: Path) -> None:
    cv2.imwrite(str(root / "train/mask/9_b.png"), np.zeros((10, 30), np.uint8))
    with pytest.raises(UserError, match=r"9_b\.png is 10x30, its image 20x30"):
        _open(root)[0]


def test_a_missing_mask_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        LoadBinaryMask()({"seg_map_path": str(root / "missing.png"), "ori_shape": (20, 30)})


def test_the_border_crop_cuts_image_and_mask_alike() -> None:
    np.random.seed(0)
    plane = np.arange(80 * 64).reshape(80, 64)
    shapes = set()
    for _ in range(40):
        cut = RandomBorderCrop(1 / 8)({"img": np.stack([plane] * 3, -1), "gt_seg_map": plane.copy(), "seg_fields": ["gt_seg_map"]})
        assert np.array_equal(cut["img"][..., 1], cut["gt_seg_map"])
        top, left = divmod(int(cut["gt_seg_map"][0, 0]), 64)
        height, width = cut["img_shape"]
        assert np.array_equal(cut["gt_seg_map"], plane[top : top + height, left : left + width])
        shapes.add((height, width))
    assert {height for height, _ in shapes} == set(range(71, 81)) and {width for _, width in shapes} == set(range(57, 65))
