"""Validation end to end on a bundle whose class map is known, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy import make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.images import write_image
from segc.core.rows import value_of
from segc.data.dataset import open_dataset
from segc.validate.evaluate import validate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "set")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_known_scores_are_found_and_stored(bundle: Path, root: Path) -> None:
    result = validate(str(bundle), open_dataset(root), against=str(bundle))
    assert value_of(result, "aAcc") == pytest.approx(100 * 19 / 20)
    assert value_of(result, "drop mIoU") == 0 and value_of(result, "pixel agreement") == 100
    stored = json.loads((bundle / "results" / "validation.fp32.onnxruntime.json").read_text())
    assert stored["rows"] == result["rows"] and isinstance(stored["rows"][0], dict)
    assert stored["dataset"]["n"] == 3 and [row["image"] for row in stored["per_image"]] == [f"images/val/{i}.png" for i in range(3)]
    assert sum(row["pixels"] for row in stored["per_class"]) == 3 * 20 * 29


def test_a_graph_of_another_size_is_scored_at_label_resolution(tmp_path: Path, root: Path) -> None:
    contract = Contract(
        classes=["dark", "bright"], palette=[(0, 0, 128), (255, 200, 0)], batch=1, height=10, width=15, mean=(0,) * 3, std=(1,) * 3
    )  # fmt: skip
    result = validate(str(make_bundle(tmp_path / "small", contract)), open_dataset(root))
    assert sum(row["pixels"] for row in result["per_class"]) == 3 * 20 * 29
    assert result["notices"]


def test_backends_agree(bundle: Path, root: Path) -> None:
    scores = [value_of(validate(str(bundle), open_dataset(root), backend=name), "mIoU") for name in ("onnxruntime", "openvino")]
    assert scores[0] == scores[1]


def test_a_label_of_another_size_is_named(bundle: Path, root: Path) -> None:
    write_image(root / "labels" / "val" / "1.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match=r"1\.png is 5x5, but its image is 30x20"):
        validate(str(bundle), open_dataset(root))


def test_a_label_out_of_range_is_named(bundle: Path, root: Path) -> None:
    write_image(root / "labels" / "val" / "2.png", np.full((20, 30), 9, np.uint8))
    with pytest.raises(UserError, match=r"2\.png holds 9"):
        validate(str(bundle), open_dataset(root))
    assert not (bundle / "results").exists()


def test_a_truncated_image_is_named(bundle: Path, root: Path) -> None:
    path = root / "images" / "val" / "0.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"0\.png is truncated"):
        validate(str(bundle), open_dataset(root))


def test_other_classes_are_refused(bundle: Path, root: Path) -> None:
    (root / "dataset.json").write_text(json.dumps({"name": "three", "classes": ["a", "b", "c"]}))
    with pytest.raises(UserError, match=r"has 2 classes, but dataset .* has 3"):
        validate(str(bundle), open_dataset(root))


def test_the_command_line(bundle: Path, root: Path) -> None:
    command = ["validate", str(bundle), "--data", str(root), "--against", str(bundle), "--json"]
    passed = CliRunner().invoke(app, [*command, "--max-drop", "0.5"])
    assert passed.exit_code == 0 and json.loads(passed.stdout)["verdict"] == "passed"
    failed = CliRunner().invoke(app, [*command, "--max-drop", "-1"])
    assert failed.exit_code == 1
    mistaken = CliRunner().invoke(app, ["validate", str(bundle), "--json"])
    assert mistaken.exit_code == 2 and "--data" in json.loads(mistaken.stdout)["error"]
