"""The images, and the places in them, where the compressed graph differs most: original, truth, full, compressed and difference."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.images import Image, encode_image
from segc.data.dataset import Pair, SegmentationSet, open_dataset
from segc.runtime.bundle import read_manifest
from segc.runtime.overlay import colour_map
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target
from segc.validate.crops import Crop, worst_crops
from segc.validate.scoring import load_pair

COUNT = 4
SEARCHED = 12
_CROPS_AN_IMAGE = 2
_NONE: dict[str, list[dict[str, Any]]] = {"images": [], "crops": []}
_WIDTH = 320
_IGNORED, _CHANGED, _SAME = (0, 0, 0), (220, 38, 38), 0.35


def worst_panels(bundle: Path, validation: dict[str, Any], count: int = COUNT) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """({"images": panels, "crops": panels}, why there are none). A panel: image name, and five pictures as data URIs with captions.

    Crops are the windows with the most pixels lost among the ``SEARCHED`` images that agree least, at most two of an image.

    Args:
        bundle: holds the two graphs.
        validation: of the compressed graph, with ``against`` a graph of the same bundle.
        count: how many images, least agreement first, and how many crops, most lost first.
    """
    against = validation["against"]
    if against is None or against["precision"] == validation["precision"] or not _is_graph_of(bundle, against):
        return _NONE, "The compressed graph was not validated against the bundle's full graph."
    try:
        dataset = open_dataset(validation["dataset"]["root"], validation["dataset"]["layout"], validation["dataset"]["split"])
    except UserError as error:
        return _NONE, f"The labelled images are not on this machine: {error}"
    worst = sorted(validation["per_image"], key=lambda row: row["agreement"])[:SEARCHED]
    runners = [open_runner(Target(bundle, "bundle", side["precision"]), side["backend"]) for side in (against, validation)]
    try:
        return _panels(worst, dataset, count, *map(Segmenter, runners)), ""
    except UserError as error:
        return _NONE, f"The pictures could not be made again: {error}"
    finally:
        for runner in runners:
            runner.close()


def _is_graph_of(bundle: Path, side: dict[str, Any]) -> bool:
    """Whether a side of a validation is a graph that the bundle holds: by content, as bundles are renamed and moved."""
    graph = read_manifest(bundle).graphs.get(side["precision"])
    return graph is not None and graph.sha256 == side["graph_sha256"]


def _panels(
    rows: list[dict[str, Any]], dataset: SegmentationSet, count: int, full: Segmenter, small: Segmenter
) -> dict[str, list[dict[str, Any]]]:
    """Panels of the first ``count`` rows and of the worst crops of all of them."""
    images: list[dict[str, Any]] = []
    crops: list[tuple[Crop, str, _Shown]] = []
    for row in rows:
        shown = _Shown.of(row, dataset, full, small)
        if len(images) < count:
            images.append({**{key: row[key] for key in ("image", "agreement", "miou", "reference_miou")}, "pictures": shown.pictures()})
        found = worst_crops(shown.label, *shown.maps, dataset.spec.ignore_index, _CROPS_AN_IMAGE)
        crops += [(crop, row["image"], shown) for crop in found]
        crops = sorted(crops, key=lambda each: -each[0].lost)[:count]
    panels = [{"image": name, "lost": crop.lost, "place": _place(crop), "pictures": shown.pictures(crop)} for crop, name, shown in crops]
    return {"images": images, "crops": panels}


def _place(crop: Crop) -> str:
    return f"{crop.side} x {crop.side} pixels at row {crop.top}, column {crop.left}"


@dataclass
class _Shown:
    """One image with its label and the class maps of the full and the compressed graph."""

    image: Image
    label: NDArray[np.integer]
    maps: tuple[NDArray[Any], NDArray[Any]]
    captions: tuple[str, str]
    contract: Contract
    ignore: int

    @classmethod
    def of(cls, row: dict[str, Any], dataset: SegmentationSet, full: Segmenter, small: Segmenter) -> _Shown:
        """That of a ``per_image`` row."""
        pair = Pair(dataset.root / row["image"], dataset.root / row["label"])
        image, label = load_pair(dataset, pair)
        captions = (f"full ({full.runner.precision})", f"compressed ({small.runner.precision})")
        return cls(image, label, (full.class_map(image), small.class_map(image)), captions, full.contract, dataset.spec.ignore_index)

    def pictures(self, crop: Crop | None = None) -> list[dict[str, str]]:
        """Five pictures of the image, or of a window of it."""
        pieces: list[Any] = [crop.of(each) if crop else each for each in (self.image, self.label, *self.maps)]
        image, label, *maps = pieces
        original, *rest = comparison_pictures(image, maps, self.contract, self.captions)
        return [original, _picture("truth", _truth(label, self.contract, self.ignore)), *rest]


def comparison_pictures(
    image: Image, maps: Sequence[NDArray[Any]], contract: Contract, captions: tuple[str, str] = ("A", "B")
) -> list[dict[str, str]]:
    """An image, its class maps of two artefacts and their difference as captions with data URIs."""
    return [
        _picture("original", image),
        *(_picture(caption, colour_map(found, contract)) for caption, found in zip(captions, maps, strict=True)),
        _picture("difference", _difference(image, maps[0] != maps[1])),
    ]


def _picture(caption: str, picture: Image) -> dict[str, str]:
    return {"caption": caption, "uri": _data_uri(picture, caption == "original")}


def _truth(label: NDArray[np.integer], contract: Contract, ignore: int) -> Image:
    ignored = label == ignore
    picture = colour_map(np.where(ignored, 0, label), contract)
    picture[ignored] = _IGNORED
    return picture


def _difference(image: Image, changed: NDArray[np.bool_]) -> Image:
    """The image in faint grey, pixels whose class changed in red."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = (255 - _SAME * (255 - grey.astype(np.float32))).astype(np.uint8)
    picture[changed] = _CHANGED
    return picture


def _data_uri(picture: Image, photograph: bool) -> str:
    """A picture at most ``_WIDTH`` pixels wide in a data URI: photographs as JPEG, class colours as PNG without blended ones."""
    scale = min(1.0, _WIDTH / picture.shape[1])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if photograph else cv2.INTER_NEAREST), np.uint8)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64," + base64.b64encode(encode_image(f".{kind}", small)).decode()
