"""How the int8 mIoU varies with the calibration images: several counts and seeds, each quantized and validated."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segc.calib.calibrate import calibrate
from segc.calib.select import Images, default_selection
from segc.compress.quantize import quantize_bundle
from segc.core.errors import UserError
from segc.core.files import read_json, sha256_files, sha256_json, write_json
from segc.core.progress import track
from segc.core.rows import environment, value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.runtime.bundle import copy_fp32, read_manifest
from segc.runtime.runner import BACKENDS, choose
from segc.validate.evaluate import validate
from segc.validate.source import data_of

RESULT = "calibration_sweep.json"


def sweep(bundle: Path, images: Images, counts: Sequence[int], seeds: Sequence[int], **how: Any) -> dict[str, Any]:
    """Calibrate, quantize and validate for every count and seed; the bundle's own table and int8 graph stay as they are.

    Args:
        bundle: with an fp32 graph and the dataset it is validated on.
        images, how: see ``segc.calib.calibrate.calibrate``.

    Returns:
        What is stored in ``results/calibration_sweep.json`` after every step, from which an interrupted sweep goes on: rows of count, seed,
        mIoU and drop in percent and points.

    Raises:
        UserError: see ``calibrate`` and ``segc.compress.quantize.quantize_bundle``; more images wanted than there are.
    """
    total = len(images)
    if max(counts) > total:
        raise UserError(f"--count {max(counts)} is more than the {total} images to choose from.")
    root, layout, split = data_of(str(bundle), None)
    dataset = open_dataset(root, layout, split)
    path = bundle / "results" / RESULT
    found = _started(path, bundle, images, dataset, how)
    for count, seed in track([(count, seed) for count in counts for seed in seeds], "comparing calibration images"):
        if not any((row["count"], row["seed"]) == (count, seed) for row in found["rows"]):
            miou = _miou(bundle, images, dataset, {**how, "count": count, "seed": seed})
            found["rows"].append({"count": count, "seed": seed, "miou": miou, "drop": found["fp32"] - miou})
            write_json(path, found)
    asked = {"rows": sorted((row for row in found["rows"] if row["count"] in counts and row["seed"] in seeds), key=_order)}
    return {**found, **asked}


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return row["count"], row["seed"]


def _started(path: Path, bundle: Path, images: Images, dataset: SegmentationSet, how: dict[str, Any]) -> dict[str, Any]:
    """The stored sweep where it was made of the same graph, images and rules, else a new one with the mIoU of fp32."""
    rules = {**how, "select": how.get("select") or default_selection(images)}
    key = sha256_json([read_manifest(bundle).graphs["fp32"].sha256, rules, _content(images), _content(dataset)])
    stored = read_json(path) if path.is_file() else {}
    if stored.get("key") == key:
        return dict(stored)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = value_of(validate(f"{bundle}@fp32", dataset, threads=how.get("threads"), output=Path(folder) / "fp32.json"), "mIoU")
    name = f"{len(dataset)} images of {dataset.spec.name} {dataset.split}"
    return {"kind": "calibration sweep", "key": key, "dataset": name, "fp32": fp32, "rows": [], "environment": environment()}


def _content(images: Images) -> str:
    """SHA-256 over images, and over labels where there are some."""
    if isinstance(images, SegmentationSet):
        return sha256_files(path for pair in images for path in (pair.image, pair.label))
    return sha256_files(images)


def _miou(bundle: Path, images: Images, dataset: SegmentationSet, how: dict[str, Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bundle"
        copy_fp32(bundle, copy)
        calibrate(copy, images, **how)
        quantize_bundle(copy, images=dataset.image_paths)
        output, backend = Path(folder) / "int8.json", _int8_backend(bundle)
        return value_of(validate(f"{copy}@int8", dataset, backend=backend, threads=how.get("threads"), output=output), "mIoU")


def _int8_backend(bundle: Path) -> str | None:
    """Where the bundle's int8 graph runs; None, for the default, where it prefers an engine, which a new graph does not have."""
    backend = choose(read_manifest(bundle), "int8", None)[1]
    return None if backend in BACKENDS and BACKENDS[backend].opens == "engine" else backend
