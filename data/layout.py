"""Where the datasets keep their files: the folder layouts of mmseg 1.x, and which of them a folder has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segc.core.errors import UserError, nearest
from segc.core.images import SUFFIXES
from segc.data.spec import SPEC_FILES

_CAMVID_FRAME = re.compile(r"^(0001TP|0006R0|0016E5|Seq05VD)_")


@dataclass(frozen=True)
class Layout:
    """One way to lay images and labels.

    folders: pairs (image folder, label folder) under the root with ``{split}`` in them; the first pair that exists counts.
    splits: the dataset's own folder name of ``train`` and ``val`` where it differs.
    image_end, label_end: what follows the common stem; an empty ``image_end`` means any image suffix.
    """

    name: str
    title: str
    folders: tuple[tuple[str, str], ...]
    splits: dict[str, str] = field(default_factory=dict)
    image_end: str = ""
    label_end: str = ".png"

    def locate(self, root: Path, split: str) -> tuple[Path, Path] | None:
        """(image folder, label folder) of a split, or None when it has none."""
        own = self.splits.get(split, split)
        for images, labels in self.folders:
            if (root / images.format(split=own)).is_dir():
                return root / images.format(split=own), root / labels.format(split=own)
        return None

    def found_splits(self, root: Path) -> list[str]:
        """The splits among train, val and test whose image folder exists."""
        return [split for split in ("train", "val", "test") if self.locate(root, split)]

    def images(self, folder: Path) -> dict[str, Path]:
        """Image files below ``folder`` by stem (the path in the folder without ``image_end``), sorted."""
        return _by_stem(folder, (self.image_end,) if self.image_end else SUFFIXES)

    def labels(self, folder: Path) -> dict[str, Path]:
        """Label files below ``folder`` by stem, sorted."""
        return _by_stem(folder, (self.label_end,))


_IMAGES = "images/{split}"
_ANNOTATIONS = "annotations/{split}"
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "folder",
            "Pairs of files, classes in dataset.json",
            ((_IMAGES, "labels/{split}"), ("img_dir/{split}", "ann_dir/{split}"), (_IMAGES, _ANNOTATIONS)),
        ),
        Layout("camvid", "CamVid, SegNet split", ((_IMAGES, "labels/{split}"), ("{split}", "{split}annot"))),
        Layout("ade20k", "ADE20K (ADEChallengeData2016)", ((_IMAGES, _ANNOTATIONS),), {"train": "training", "val": "validation"}),
        Layout(
            "cityscapes",
            "Cityscapes with labelTrainIds",
            (("leftImg8bit/{split}", "gtFine/{split}"),),
            image_end="_leftImg8bit.png",
            label_end="_gtFine_labelTrainIds.png",
        ),
        Layout(
            "coco_stuff",
            "COCO-Stuff 164k with labelTrainIds",
            ((_IMAGES, _ANNOTATIONS),),
            {"train": "train2017", "val": "val2017"},
            label_end="_labelTrainIds.png",
        ),
        Layout(
            "coco_stuff10k",
            "COCO-Stuff 10k with labelTrainIds",
            ((_IMAGES, _ANNOTATIONS),),
            {"train": "train2014", "val": "test2014"},
            label_end="_labelTrainIds.png",
        ),
    )
}


def get_layout(name: str) -> Layout:
    """The layout of that name.

    Raises:
        UserError: unknown name; the nearest one is told.
    """
    if name not in LAYOUTS:
        raise UserError(f"unknown layout {name!r}.{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def detect_layout(root: Path) -> Layout:
    """The layout of a dataset folder, told by its sub-folders (CamVid also by the names of its frames).

    Raises:
        UserError: ``root`` is no folder, or has none of the layouts.
    """
    if not root.is_dir():
        raise UserError(f"dataset folder {root} {'is a file' if root.exists() else 'does not exist'}.", "Name the folder with --data.")
    for name in ("cityscapes", "ade20k", "coco_stuff", "coco_stuff10k"):
        if any(LAYOUTS[name].locate(root, split) for split in ("train", "val")):
            return LAYOUTS[name]
    if any((root / name).is_file() for name in SPEC_FILES):
        return LAYOUTS["folder"]
    if (root / "trainannot").is_dir() or (root / "valannot").is_dir() or _has_camvid_frames(root):
        return LAYOUTS["camvid"]
    if any(LAYOUTS["folder"].locate(root, split) for split in ("train", "val")):
        return LAYOUTS["folder"]
    raise UserError(f"{root} has none of the layouts {', '.join(LAYOUTS)}.{_below(root)}", "See them with: segc data list")


def _has_camvid_frames(root: Path) -> bool:
    found = (folder for split in ("train", "val") if (folder := root / "images" / split).is_dir())
    return any(_CAMVID_FRAME.match(path.name) for folder in found for path in folder.iterdir())


def _below(root: Path) -> str:
    """A hint when the user named the parent of a dataset."""
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        for layout in LAYOUTS.values():
            if layout.found_splits(child) and layout.name != "camvid":
                return f" Did you mean {child}?"
    return ""


def _by_stem(folder: Path, ends: tuple[str, ...]) -> dict[str, Path]:
    """Files by stem.

    Raises:
        UserError: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(_files(folder)):
        relative = path.relative_to(folder).as_posix()
        end = next((end for end in ends if relative.lower().endswith(end.lower())), None)
        if end is None:
            continue
        stem = relative[: -len(end)]
        if stem in found:
            raise UserError(
                f"{found[stem]} and {path.name} share one stem: which belongs to the label is unclear.", "Move one of them away."
            )
        found[stem] = path
    return found


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names if not name.startswith("."))
