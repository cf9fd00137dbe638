"""Which images to calibrate on: real ones, of the training split or a folder, chosen by a recorded rule and seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.errors import UserError, nearest
from segc.core.files import sha256_file
from segc.core.images import SUFFIXES, read_image
from segc.core.progress import track
from segc.data.dataset import SegmentationSet, open_dataset
from segc.runtime.bundle import read_manifest

DEFAULT_COUNT = 64
SELECTIONS = ("coverage", "random", "k-center")
# Files looked at for each one chosen: it bounds the reading on large sets, and lets the seed matter.
_POOL = 4
_THUMBNAIL = (12, 16)
Images = SegmentationSet | Sequence[Path]
Features = NDArray[np.float64]


def images_in(folder: Path | str) -> list[Path]:
    """Image files in a folder (searched recursively), sorted by path; a file gives itself.

    Raises:
        UserError: nothing there.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"calibration images {folder} do not exist.", "Give a folder of real images with --images.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"no image files in {folder}.", f"Expected one of: {', '.join(SUFFIXES)}.")
    return found


def training_set(bundle: Path | str) -> SegmentationSet:
    """The training split of the dataset a bundle was exported with.

    Raises:
        UserError: the bundle names no dataset, or it is not on this machine.
    """
    data = read_manifest(bundle).provenance.get("data") or {}
    if not data.get("root"):
        raise UserError(f"bundle {bundle} names no dataset.", "Give a folder of real images: --images DIR")
    return open_dataset(data["root"], data.get("layout"), "train")


def default_selection(images: Images) -> str:
    """``coverage`` where there are labels, else ``random``."""
    return "coverage" if isinstance(images, SegmentationSet) else "random"


def choose_images(images: Images, count: int = DEFAULT_COUNT, seed: int = 0, select: str | None = None) -> list[Path]:
    """``count`` of the images, in path order; all of them when there are fewer.

    Args:
        images: a labelled set, or paths.
        count, seed: how many, and what the random choices are drawn by: all of ``random``, else four candidates for each image wanted.
        select: ``coverage``: greedily, so that every class is seen as much as possible, the rare ones as much as the frequent ones;
            ``k-center``: greedily, the image least like those chosen; ``random``; None takes ``default_selection``.

    Raises:
        UserError: no images, ``count`` below 1, an unknown rule, or coverage without labels.
    """
    select = select or default_selection(images)
    paths = sorted(images.image_paths if isinstance(images, SegmentationSet) else images)
    _check(images, paths, count, select)
    draw = random.Random(seed)
    if select == "random" or len(paths) <= count:
        return sorted(draw.sample(paths, min(count, len(paths))))
    pool = draw.sample(paths, min(_POOL * count, len(paths)))
    if isinstance(images, SegmentationSet) and select == "coverage":
        order = cover_classes(_class_shares(images, pool), count)
    else:
        order = k_center(_thumbnails(pool), count)
    return sorted(pool[index] for index in order)


def cover_classes(shares: Features, count: int) -> list[int]:
    """Rows chosen one by one to maximise the sum over classes of the square root of what is seen of the class.

    ``shares`` (n, K) holds pixels of each class; a class is seen by the chosen rows' part of all its pixels. Concave functions of sums are
    submodular: the greedy choice reaches 1 - 1/e of the best (Nemhauser, Wolsey and Fisher, 1978).
    """
    parts = shares / np.maximum(shares.sum(0), np.finfo(float).tiny)
    seen = np.zeros(parts.shape[1])
    chosen: list[int] = []
    for _ in range(min(count, len(parts))):
        gain = np.sqrt(seen + parts).sum(1)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        seen += parts[chosen[-1]]
    return chosen


def k_center(points: Features, count: int) -> list[int]:
    """Rows chosen from the first on, each the farthest from those chosen (Gonzalez, 1985; core-sets: Sener and Savarese, 2018)."""
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return chosen


def shared_images(chosen: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """Those of ``chosen`` whose content is also in ``others``: by SHA-256, of files of equal sizes only, each read once."""
    sizes = {path.stat().st_size for path in chosen} & {path.stat().st_size for path in others}
    known = {sha256_file(path) for path in others if path.stat().st_size in sizes}
    return [path for path in chosen if path.stat().st_size in sizes and sha256_file(path) in known]


def classes_in(images: SegmentationSet, chosen: Sequence[Path]) -> list[str]:
    """Names of the classes that the labels of the chosen images show."""
    seen = np.atleast_1d(_class_shares(images, chosen).any(0))
    return [name for name, there in zip(images.spec.classes, seen, strict=True) if there]


def _check(images: Images, paths: Sequence[Path], count: int, select: str) -> None:
    if count < 1:
        raise UserError(f"calibration needs at least 1 image; {count} were asked for.", "--count 64")
    if not paths:
        raise UserError("no calibration images were given.", "Give a folder of real images with --images; random data is never used.")
    if select not in SELECTIONS:
        raise UserError(f"unknown choice of calibration images {select!r}.{nearest(select, SELECTIONS)}")
    if select == "coverage" and not isinstance(images, SegmentationSet):
        raise UserError("images without labels cannot be chosen by class coverage.", "--select random or --select k-center")


def _class_shares(images: SegmentationSet, pool: Sequence[Path]) -> Features:
    """Share of each class in each image's label: (n, K)."""
    pairs = {pair.image: pair for pair in images}
    labels = (images.read_label(pairs[path]) for path in track(pool, "reading labels"))
    classes, beyond = images.spec.num_classes, images.spec.ignore_index + 1
    return np.stack([np.bincount(label.ravel(), minlength=beyond)[:classes] / label.size for label in labels])


def _thumbnails(pool: Sequence[Path]) -> Features:
    """Each image as a few grey and colour values: (n, features)."""
    small = [cv2.resize(read_image(path), _THUMBNAIL[::-1], interpolation=cv2.INTER_AREA) for path in track(pool, "looking at candidates")]
    return np.stack(small).reshape(len(pool), -1).astype(np.float64)
