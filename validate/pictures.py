"""The images where the compressed graph differs most, as original, truth, full, compressed and difference."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.images import Image, encode_image, read_image
from segc.data.dataset import Pair, SegmentationSet, open_dataset
from segc.runtime.overlay import colour_map
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target

COUNT = 4
_WIDTH = 320
_IGNORED, _CHANGED, _SAME = (0, 0, 0), (220, 38, 38), 0.35


def worst_panels(bundle: Path, validation: dict[str, Any], count: int = COUNT) -> tuple[list[dict[str, Any]], str]:
    """(panels, why there are none). A panel: image name, agreement and IoU, and five pictures as data URIs with captions.

    Args:
        bundle: holds the two graphs.
        validation: of the compressed graph, with ``against`` a graph of the same bundle.
        count: how many images, least agreement first.
    """
    against = validation["against"]
    if against is None or against["precision"] == validation["precision"] or against["target"].partition("@")[0] != bundle.resolve().name:
        return [], "The compressed graph was not validated against the bundle's full graph."
    try:
        dataset = open_dataset(validation["dataset"]["root"], validation["dataset"]["layout"], validation["dataset"]["split"])
    except UserError as error:
        return [], f"The labelled images are not on this machine: {error}"
    worst = sorted(validation["per_image"], key=lambda row: row["agreement"])[:count]
    runners = [open_runner(Target(bundle, "bundle", side["precision"]), side["backend"]) for side in (against, validation)]
    try:
        return [_panel(row, dataset, *map(Segmenter, runners)) for row in worst], ""
    except UserError as error:
        return [], f"The pictures could not be made again: {error}"
    finally:
        for runner in runners:
            runner.close()


def _panel(row: dict[str, Any], dataset: SegmentationSet, full: Segmenter, small: Segmenter) -> dict[str, Any]:
    pair = Pair(dataset.root / row["image"], dataset.root / row["label"])
    image, label = read_image(pair.image), dataset.read_label(pair)
    before, after = full.class_map(image), small.class_map(image)
    pictures = comparison_pictures(
        image, [before, after], full.contract, (f"full ({full.runner.precision})", f"compressed ({small.runner.precision})")
    )
    return {
        "image": row["image"],
        "agreement": row["agreement"],
        "miou": row["miou"],
        "reference_miou": row["reference_miou"],
        "pictures": [pictures[0], _picture("truth", _truth(label, dataset, full)), *pictures[1:]],
    }


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


def _truth(label: NDArray[np.integer], dataset: SegmentationSet, segmenter: Segmenter) -> Image:
    ignored = label == dataset.spec.ignore_index
    picture = colour_map(np.where(ignored, 0, label), segmenter.contract)
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
