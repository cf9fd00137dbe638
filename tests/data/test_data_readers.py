"""Readers against mmseg's own: the same pairs, the same train ids, the same names and colours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segc.core.errors import UserError
from segc.data.dataset import open_dataset, to_train_ids
from segc.data.labels import read_stored_label
from segc.data.spec import DatasetSpec, known_specs, voc_colour

mmseg_datasets = pytest.importorskip("mmseg.datasets")
IMAGE = np.full((6, 8, 3), 90, np.uint8)

# layout, mmseg's class and arguments, image and label file of stem {}, the stored values that have a meaning
PUBLIC = {
    "ade20k": (
        "ADE20KDataset",
        {},
        ("images/validation", "annotations/validation"),
        ("{}.jpg", "{}.png"),
        [*range(151), 255],
    ),
    "cityscapes": (
        "CityscapesDataset",
        {},
        ("leftImg8bit/val", "gtFine/val"),
        ("town/{}_leftImg8bit.png", "town/{}_gtFine_labelTrainIds.png"),
        [*range(19), 255],
    ),
    "coco_stuff": (
        "COCOStuffDataset",
        {},
        ("images/val2017", "annotations/val2017"),
        ("{}.jpg", "{}_labelTrainIds.png"),
        [*range(171), 255],
    ),
    "coco_stuff10k": (
        "COCOStuffDataset",
        {"reduce_zero_label": True},
        ("images/test2014", "annotations/test2014"),
        ("{}.jpg", "{}_labelTrainIds.png"),
        [*range(172), 255],
    ),
}


def write(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def tree(root: Path, name: str) -> Path:
    _, _, folders, files, values = PUBLIC[name]
    rng = np.random.default_rng(3)
    for stem in ("b_2", "a_1", "c_3"):
        write(root / folders[0] / files[0].format(stem), IMAGE)
        label = rng.choice(values, (20, 24)).astype(np.uint8)
        label.ravel()[: len(values)] = values
        write(root / folders[1] / files[1].format(stem), label)
    return root


def mmseg_labels(dataset: Any) -> dict[str, NDArray[np.uint8]]:
    from mmseg.datasets.transforms import LoadAnnotations

    load = LoadAnnotations()
    return {info["img_path"]: load(info)["gt_seg_map"] for info in (dataset.get_data_info(index) for index in range(len(dataset)))}


@pytest.mark.parametrize("name", PUBLIC)
def test_pairs_and_train_ids_equal_mmseg(tmp_path: Path, name: str) -> None:
    kind, arguments, folders, _, values = PUBLIC[name]
    ours = open_dataset(tree(tmp_path, name))
    prefix = {"img_path": str(tmp_path / folders[0]), "seg_map_path": str(tmp_path / folders[1])}
    theirs = mmseg_labels(getattr(mmseg_datasets, kind)(data_prefix=prefix, **arguments))
    assert ours.layout == name
    assert [str(path) for path in ours.image_paths] == list(theirs)
    for pair in ours:
        label = ours.read_label(pair)
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, theirs[str(pair.image)])
        assert len(np.unique(label)) >= len(values) - 1


@pytest.mark.parametrize(
    ("layout", "kind"), [("ade20k", "ADE20KDataset"), ("cityscapes", "CityscapesDataset"), ("coco_stuff", "COCOStuffDataset")]
)
def test_names_and_colours_equal_mmseg(layout: str, kind: str) -> None:
    meta = getattr(mmseg_datasets, kind).METAINFO
    spec = known_specs()[layout]
    assert spec.classes == tuple(meta["classes"])
    assert [list(colour) for colour in spec.palette] == [list(colour) for colour in meta["palette"]]


def test_generated_palette_is_pascal_voc() -> None:
    from mmseg.datasets import PascalVOCDataset

    palette = PascalVOCDataset.METAINFO["palette"]
    assert [list(voc_colour(index)) for index in range(len(palette))] == [list(colour) for colour in palette]


@given(
    classes=st.integers(1, 40),
    reduce_zero=st.booleans(),
    map_seed=st.integers(0, 1 << 30),
    pixels_seed=st.integers(0, 1 << 30),
    sixteen=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_remap_equals_the_definition(classes: int, reduce_zero: bool, map_seed: int, pixels_seed: int, sixteen: bool) -> None:
    """Chains and cycles in the map (1 -> 2, 2 -> 1) must not be followed."""
    rng = np.random.default_rng(map_seed)
    targets = [*range(classes), 255]
    olds = rng.choice(min(2 * classes + 2, 256), size=int(rng.integers(0, classes + 1)), replace=False).tolist()
    mapping = {int(old): int(rng.choice(targets)) for old in olds}
    spec = DatasetSpec(name="x", classes=[f"c{i}" for i in range(classes)], reduce_zero_label=reduce_zero, label_map=mapping)

    def definition(value: int) -> int:
        if reduce_zero:
            value = 255 if value in (0, 255) else value - 1
        return mapping.get(value, value)

    stored = np.random.default_rng(pixels_seed).integers(0, 2 * classes + 3, (5, 7)).astype(np.uint16 if sixteen else np.uint8)
    expected = np.vectorize(definition)(stored)
    meant = (expected < classes) | (expected == 255)
    if meant.all():
        np.testing.assert_array_equal(to_train_ids(stored, spec, Path("x.png")), expected)
    else:
        with pytest.raises(UserError, match=str(stored[~meant].min())):
            to_train_ids(stored, spec, Path("x.png"))
        stored = np.where(meant, stored, stored[meant][0]) if meant.any() else stored[:0]
        np.testing.assert_array_equal(to_train_ids(stored, spec, Path("x.png")), np.vectorize(definition, otypes=[int])(stored))


def test_remap_equals_mmseg_with_a_cycle(tmp_path: Path) -> None:
    from mmseg.datasets.transforms import LoadAnnotations

    spec = DatasetSpec(name="x", classes=("a", "b", "c", "d"), label_map={0: 1, 1: 2, 2: 0, 9: 255})
    path = write(tmp_path / "x.png", np.random.default_rng(0).choice([0, 1, 2, 3, 9, 255], (30, 30)).astype(np.uint8))
    record = {"seg_map_path": str(path), "reduce_zero_label": False, "label_map": spec.label_map, "seg_fields": []}
    np.testing.assert_array_equal(to_train_ids(read_stored_label(path), spec, path), LoadAnnotations()(record)["gt_seg_map"])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_png_is_read_by_index(tmp_path: Path, bits: int, transparent: bool) -> None:
    rng = np.random.default_rng(bits)
    index = rng.integers(0, min(1 << bits, 200), (13, 17)).astype(np.uint8)
    picture = Image.fromarray(index, mode="P")
    picture.putpalette(rng.integers(0, 255, 3 << bits).astype(np.uint8).tobytes())
    picture.save(tmp_path / "p.png", bits=bits, **({"transparency": 0} if transparent else {}))
    assert (tmp_path / "p.png").read_bytes()[24:26] == bytes([bits, 3])
    stored = read_stored_label(tmp_path / "p.png")
    np.testing.assert_array_equal(stored, np.array(Image.open(tmp_path / "p.png")))
    np.testing.assert_array_equal(stored, index)


def test_more_than_255_classes_are_read_from_16_bits(tmp_path: Path) -> None:
    spec = DatasetSpec(name="many", classes=[str(i) for i in range(700)], ignore_index=65535)
    values = np.array([[0, 255, 699, 65535]], np.uint16)
    label = to_train_ids(read_stored_label(write(tmp_path / "x.png", values)), spec, tmp_path)
    assert label.dtype == np.int32
    assert label.tolist() == values.tolist()


def test_camvid_void_is_ignored(camvid: Path) -> None:
    """The README of the set names value 11 as unlabelled; no other value changes."""
    dataset = open_dataset(camvid, split="val")
    assert (dataset.layout, len(dataset), dataset.spec.num_classes) == ("camvid", 101, 11)
    for pair in dataset.pairs[::20]:
        stored, label = np.array(Image.open(pair.label)), dataset.read_label(pair)
        np.testing.assert_array_equal(label, np.where(stored == 11, 255, stored))


def test_segc_dataset_loads_as_mmseg_loads(tmp_path: Path) -> None:
    from mmengine.registry import DefaultScope

    from segc.data.mmseg_dataset import SegcDataset

    DefaultScope.get_instance("test_data_readers", scope_name="mmseg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sets = [
            SegcDataset(tree(tmp_path / "ade", "ade20k"), split="val", pipeline=[{"type": kind}])
            for kind in ("LoadTrainIds", "LoadAnnotations")
        ]
    assert sets[0].metainfo["classes"] == known_specs()["ade20k"].classes
    assert len(sets[0]) == 3
    for ours, theirs in zip(*sets, strict=True):
        np.testing.assert_array_equal(ours["gt_seg_map"], theirs["gt_seg_map"])
        assert ours["img_path"] == theirs["img_path"]
    assert len(sets[0].data_bytes) / 3 < 2000, "a stored record carries more than its file names"
