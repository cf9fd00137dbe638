"""Which images to calibrate on: real ones, from a folder or the training split, chosen by a recorded seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from segc.core.errors import UserError
from segc.core.images import SUFFIXES
from segc.data.dataset import open_dataset
from segc.runtime.bundle import read_manifest

DEFAULT_COUNT = 64


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


def choose_images(images: Sequence[Path], count: int = DEFAULT_COUNT, seed: int = 0) -> list[Path]:
    """``count`` of the images drawn without replacement by ``seed``, in path order; all of them when there are fewer.

    Raises:
        UserError: no images, or ``count`` below 1.
    """
    if count < 1:
        raise UserError(f"calibration needs at least 1 image; {count} were asked for.", "--count 64")
    if not images:
        raise UserError("no calibration images were given.", "Give a folder of real images with --images; random data is never used.")
    return sorted(random.Random(seed).sample(sorted(images), min(count, len(images))))


def training_images(bundle: Path | str) -> list[Path]:
    """Images of the training split of the dataset a bundle was exported with.

    Raises:
        UserError: the bundle names no dataset, or it is not on this machine.
    """
    data = read_manifest(bundle).provenance.get("data") or {}
    if not data.get("root"):
        raise UserError(f"bundle {bundle} names no dataset.", "Give a folder of real images: --images DIR")
    return open_dataset(data["root"], data.get("layout"), "train").image_paths
