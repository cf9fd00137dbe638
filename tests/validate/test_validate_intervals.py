"""Intervals from end to end: two bundles that differ, what is stored beside the result, what the command line says and gates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy import DYNAMIC, make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.files import sha256_file
from segc.data.dataset import open_dataset
from segc.validate.bootstrap import Bootstrap, paired_drops
from segc.validate.confusions import load_confusions
from segc.validate.evaluate import validate
from segc.validate.intervals import few_images_notice, interval_text


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The toy network at half the size of the images, which costs it most of its accuracy on noise."""
    return make_bundle(tmp_path / "small", DYNAMIC.model_copy(update={"batch": 1, "height": 10, "width": 15}))


def test_drops_are_stored_with_their_intervals_and_the_matrices_they_come_from(tmp_path: Path, small: Path) -> None:
    dataset = open_dataset(make_set(tmp_path / "set", 8))
    options = Bootstrap(500, 0.9, seed=4)
    result = validate(str(small), dataset, against=str(make_bundle(tmp_path / "full")), bootstrap=options)
    stored = json.loads((small / "results" / "validation.fp32.onnxruntime.json").read_text())
    beside = small / "results" / "validation.fp32.onnxruntime.confusion.npz"
    assert stored["rows"] == result["rows"] and stored["confusions"] == {"file": beside.name, "sha256": sha256_file(beside)}
    sides = load_confusions(beside)
    drops = paired_drops(sides["against"].counts(), sides["target"].counts(), options)
    assert drops is not None
    row = next(row for row in result["rows"] if row["metric"] == "drop mIoU")
    found = drops.means["mIoU"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["p_value"]) == pytest.approx((found.value, found.low, found.high, found.p))
    assert row["ci_low"] > 0 and row["distinguishable"]
    assert {"confidence": 0.9, "resamples": 500, "seed": 4}.items() <= row["conditions"].items()
    assert "percentile" in row["conditions"]["method"]
    assert all(line["drop_low"] < line["drop"] < line["drop_high"] for line in result["per_class"])
    np.testing.assert_array_equal(sides["target"].total.sum(1), [line["pixels"] for line in result["per_class"]])


def test_without_a_bootstrap_there_is_no_interval(tmp_path: Path, small: Path) -> None:
    result = validate(str(small), open_dataset(make_set(tmp_path / "set", 3)), against=str(small), bootstrap=None)
    assert "drop_low" not in result["per_class"][0]
    assert not any("ci_low" in row for row in result["rows"]) and any(row["metric"] == "drop mAcc" for row in result["rows"])


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("drop(mIoU) > 1", 1),
        ("drop(mIoU) > 99 or drop(class:bright) > 1", 1),
        ("upper(drop(mIoU)) > 99", 0),
        ("lower(drop(mIoU)) > 1 and class:dark < 99", 1),
        ("drop(class:brigt) > 1", 2),
        ("drop(mIoU) >", 2),
    ],
)
def test_fail_if_sets_the_exit_code(tmp_path: Path, small: Path, condition: str, code: int) -> None:
    root = make_set(tmp_path / "set", 4)
    full = make_bundle(tmp_path / "full")
    command = ["validate", str(small), "--against", str(full), "--data", str(root), "--resamples", "200", "--fail-if", condition]
    found = CliRunner().invoke(app, [*command, "--json"])
    answer = json.loads(found.stdout)
    assert found.exit_code == code, answer
    assert answer["verdict"] == ("passed", "failed", "error")[code]
    assert code == 2 or f"{condition} {'holds' if code else 'does not hold'}" in answer["summary"]
    assert "'drop(class:bright)'" in answer.get("error", "") or condition != "drop(class:brigt) > 1"


def test_the_command_line_shows_intervals(tmp_path: Path, small: Path) -> None:
    root = make_set(tmp_path / "set", 4)
    shown = CliRunner().invoke(app, ["validate", str(small), "--against", str(small), "--data", str(root), "--confidence", "0.8"]).stdout
    assert "80 % CI +0.00 to +0.00, not distinguishable from zero" in " ".join(shown.split())
    assert "intervals rest on 4 images" in shown
    wrong = CliRunner().invoke(app, ["validate", str(small), "--data", str(root), "--interval", "normal", "--json"])
    assert wrong.exit_code == 2 and "one of percentile, bca" in json.loads(wrong.stdout)["error"]


def test_words_of_an_interval() -> None:
    row = {"ci_low": 0.11, "ci_high": 0.52, "distinguishable": True, "conditions": {"confidence": 0.95}}
    assert interval_text(row) == "95 % CI +0.11 to +0.52"
    assert interval_text({**row, "distinguishable": False}) == "95 % CI +0.11 to +0.52, not distinguishable from zero"
    assert interval_text({"value": 1.0}) == ""
    assert few_images_notice(100) == [] and "1 image:" in few_images_notice(1)[0]
