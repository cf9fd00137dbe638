"""Faults read in other projects' evaluators and calibrators, one test each: what segc must never do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from smallnet import photos, small_bundle
from toy import DYNAMIC, make_bundle, make_set

from segc.calib.calibrate import calibrate
from segc.calib.select import choose_images
from segc.calib.table import read_table
from segc.core.errors import UserError
from segc.core.images import write_image
from segc.core.rows import value_of
from segc.data.dataset import open_dataset
from segc.validate.evaluate import validate
from segc.validate.metrics import confusion
from segc.validate.scoring import counted, open_lanes
from segc.validate.sides import Side


def small_graph(folder: Path, batch: int = 1) -> Path:
    """The toy network at half the size of the toy set's images."""
    return make_bundle(folder, DYNAMIC.model_copy(update={"batch": batch, "height": 10, "width": 15}))


def labels_of(root: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((root / "labels" / "val").iterdir())]


def test_labels_are_never_interpolated(tmp_path: Path) -> None:
    """Bilinear labels invent classes between two: of 0 and 2 they make 1. Here every pixel counts as the class it is stored as."""
    root = make_set(tmp_path / "set", 2)
    spec = {"name": "three", "classes": ["dark", "between", "bright"]}
    (root / "dataset.json").write_text(json.dumps(spec))
    for path, label in zip(sorted((root / "labels" / "val").iterdir()), labels_of(root), strict=True):
        write_image(path, np.where(label == 1, 2, label).astype(np.uint8))
    contract = DYNAMIC.model_copy(
        update={"classes": spec["classes"], "palette": [(0, 0, 0)] * 3, "batch": 1, "height": 10, "width": 15}
    )  # fmt: skip
    result = validate(str(make_bundle(tmp_path / "bundle", contract)), open_dataset(root))
    stored = np.stack(labels_of(root))
    assert [row["pixels"] for row in result["per_class"]] == [int((stored == kind).sum()) for kind in range(3)]
    assert result["per_class"][1]["pixels"] == 0


def test_scores_are_at_label_resolution_not_at_the_networks(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", 2)
    result = validate(str(small_graph(tmp_path / "bundle")), open_dataset(root))
    counted = sum(int((label != 255).sum()) for label in labels_of(root))
    assert sum(row["pixels"] for row in result["per_class"]) == counted == 2 * 20 * 29
    assert all(row["conditions"]["resolution"] == "label" for row in result["rows"])


def test_remaps_are_applied_at_once_not_in_a_chain(tmp_path: Path) -> None:
    """0 -> 1 and 1 -> 0 in sequence and in place would make all pixels 0."""
    root = make_set(tmp_path / "set", 1)
    stored = labels_of(root)[0]
    spec = {"name": "swapped", "classes": ["dark", "bright"], "label_map": {"0": 1, "1": 0}}
    (root / "dataset.json").write_text(json.dumps(spec))
    dataset = open_dataset(root)
    found = dataset.read_label(next(iter(dataset)))
    np.testing.assert_array_equal(found, np.where(stored == 255, 255, 1 - stored))


def test_pairs_do_not_depend_on_the_order_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, walk = make_set(tmp_path / "set", 12), os.walk
    expected, rng, asked = list(open_dataset(root)), np.random.default_rng(0), 0

    def shuffled(*given: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        nonlocal asked
        for parent, folders, names in walk(*given, **options):
            asked += 1
            yield parent, folders, list(rng.permutation(names))

    monkeypatch.setattr(os, "walk", shuffled)
    assert list(open_dataset(root)) == expected and asked == 2
    assert all(pair.image.stem == pair.label.stem for pair in expected)


def test_counts_beyond_float32_are_exact() -> None:
    """float32 stops counting at 2^24; one map of 2^24 + 1 pixels of one class is enough to see it."""
    label = np.zeros((1, 2**24 + 1), np.uint8)
    assert confusion(label, label, 2)[0, 0] == 2**24 + 1


def test_the_set_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 images a few are decoded and not yet counted at a time, and what is kept does not have their pixels."""
    from segc.validate import scoring

    alive, most = 0, 0
    load, count = scoring.load_pair, scoring._count

    def loading(*given: Any) -> Any:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return load(*given)

    def counting(*given: Any) -> Any:
        nonlocal alive
        alive -= 1
        return count(*given)

    monkeypatch.setattr(scoring, "load_pair", loading)
    monkeypatch.setattr(scoring, "_count", counting)
    dataset = open_dataset(make_set(tmp_path / "set", 40))
    lanes = open_lanes(Side.of(str(make_bundle(tmp_path / "bundle"))), None, dataset, threads=1)
    kept = [found.scored.matrices.arrays() for found in counted(lanes, dataset, dataset)]
    assert most <= 2 * (2 * scoring.DECODERS + 2 * scoring.LANES) < 40
    assert len(kept) == 40 and all(len(each["cells"]) <= 4 for each in kept)


def test_every_number_has_one_unit(tmp_path: Path) -> None:
    """A score is in percent everywhere, never a share here and percent there; a drop is in points of it."""
    bundle = make_bundle(tmp_path / "bundle")
    result = validate(str(bundle), open_dataset(make_set(tmp_path / "set", 3)), against=str(bundle))
    units = {row["metric"]: row["unit"] for row in result["rows"]}
    assert all(units[metric] == "%" for metric in ("mIoU", "mAcc", "aAcc", "reference mIoU", "pixel agreement", "random mIoU"))
    assert all(unit == "points" for metric, unit in units.items() if metric.startswith("drop "))
    assert value_of(result, "aAcc") == pytest.approx(95.0)
    assert value_of(result, "mIoU") == pytest.approx(np.mean([row["iou"] for row in result["per_class"]]))


def test_results_are_json_objects_not_strings_of_them(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    validate(str(bundle), open_dataset(make_set(tmp_path / "set", 2)))
    stored = json.loads((bundle / "results" / "validation.fp32.onnxruntime.json").read_text())
    assert isinstance(stored, dict) and isinstance(stored["rows"][0]["value"], float)


def test_the_last_batch_counts_when_it_is_not_full(tmp_path: Path) -> None:
    """Five images through a graph of batch 4, all five are scored."""
    root = make_set(tmp_path / "set", 5)
    result = validate(str(small_graph(tmp_path / "bundle", batch=4)), open_dataset(root))
    assert len(result["per_image"]) == result["dataset"]["n"] == 5
    assert sum(row["pixels"] for row in result["per_class"]) == 5 * 20 * 29


@pytest.mark.parametrize("content", ["", "{}", '{"ranges": {}}'])
def test_an_empty_calibration_cache_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(UserError, match=r"calibration\.json"):
        read_table(tmp_path / "calibration.json")


def test_calibration_never_falls_back_to_random_data(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    with pytest.raises(UserError, match="random data is never used"):
        choose_images([])
    with pytest.raises(UserError, match="random data is never used"):
        calibrate(bundle, [])
    table = read_table(calibrate(bundle, photos(tmp_path / "photos")))
    assert {Path(image.name).name for image in table.images} <= {path.name for path in (tmp_path / "photos").iterdir()}
