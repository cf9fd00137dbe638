"""Where accuracy was lost, on sets whose losses are known: places end to end, flips, slices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy import DYNAMIC, make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.rows import value_of
from segc.data.dataset import open_dataset
from segc.validate.bootstrap import Bootstrap
from segc.validate.confusions import Confusions, load_confusions
from segc.validate.details import flips, slices
from segc.validate.evaluate import validate
from segc.validate.metrics import summarize
from segc.validate.scoring import Counts, Scored


def scored(stack: np.ndarray) -> Scored:
    found = Scored(Confusions(stack.shape[-1]))
    for matrix in stack:
        found.matrices.append(matrix)
    return found


def test_flips_name_what_became_what() -> None:
    names = ["rider", "person", "road", "nowhere"]
    reference, target = (np.diag([1000, 5000, 100_000, 0]) for _ in range(2))
    target[0, 0], target[0, 1] = 960, 40
    target[2, 1], target[2, 2] = 500, 99_500
    reference[1, 0], reference[1, 1] = 90, 4910
    found = flips(reference, target, names)
    assert found == [
        {"label": "rider", "found": "person", "points": pytest.approx(4.0), "pixels": 40},
        {"label": "road", "found": "person", "points": pytest.approx(0.5), "pixels": 500},
    ]


def test_slices_score_their_images_alone() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 50, (9, 3, 3)) + 100 * np.eye(3, dtype=int) for _ in range(2))
    before[4:, 2], after[4:, 2] = 0, 0
    brightness = [9.0, 1, 8, 2, 7, 3, 6, 4, 5]
    found = slices(Counts(scored(after), scored(before), brightness=brightness), ["a", "b", "c"], Bootstrap(200))
    dark = [1, 3, 5]
    expected = summarize(before[dark].sum(0)).miou, summarize(after[dark].sum(0)).miou
    row = found["brightness"][0]
    assert (row["slice"], row["images"], row["from"], row["to"]) == ("darkest third", 3, 1.0, 3.0)
    assert (row["reference"], row["score"]) == pytest.approx(expected) and row["drop_low"] <= row["drop"] <= row["drop_high"]
    rare = [row for row in found["class_size"] if row["class"] == "c"]
    assert [row["images"] for row in rare] == [2, 2] and len(found["class_size"]) == 6
    share = after[:4, 2].sum(1) / after[:4].sum((1, 2))
    small = np.argsort(share)[:2]
    assert rare[0]["score"] == pytest.approx(summarize(after[small].sum(0)).iou[2])


def test_slices_of_one_artefact_and_of_few_images() -> None:
    found = slices(Counts(scored(np.ones((2, 2, 2), int)), brightness=[3.0, 4.0]), ["a", "b"], None)
    assert [row["images"] for row in found["brightness"]] == [1, 1] and "drop" not in found["brightness"][0]


def test_places_are_scored_end_to_end(tmp_path: Path) -> None:
    root, full = make_set(tmp_path / "set", 5), make_bundle(tmp_path / "full")
    small = make_bundle(tmp_path / "small", DYNAMIC.model_copy(update={"batch": 1, "height": 10, "width": 15}))
    result = validate(str(small), open_dataset(root), against=str(full), places=True, bootstrap=Bootstrap(200))
    for metric in ("boundary mIoU", "band mIoU", "small-region recall"):
        before, after = value_of(result, f"reference {metric}"), value_of(result, metric)
        assert 0 <= after < before <= 100 and value_of(result, f"drop {metric}") == pytest.approx(before - after)
        assert next(row for row in result["rows"] if row["metric"] == f"drop {metric}")["ci_low"] > 0
    assert [row["class"] for row in result["places"]["boundary"]] == ["dark", "bright"]
    assert result["places"]["small"][1]["drop_low"] is not None
    kept = load_confusions(small / "results" / result["confusions"]["file"])
    assert len(kept) == 8 and kept["target.boundary"].classes == 3 and len(kept["against.small"]) == 5
    assert {row["label"] for row in result["flips"]} == {"dark", "bright"}


def test_places_can_be_gated_and_are_unknown_where_they_were_not_scored(tmp_path: Path) -> None:
    root, full = make_set(tmp_path / "set", 3), make_bundle(tmp_path / "full")
    command = ["validate", str(full), "--data", str(root), "--json", "--fail-if", "boundary < 101"]
    assert CliRunner().invoke(app, [*command, "--boundary"]).exit_code == 1
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 2 and "'boundary', which this validation does not measure" in json.loads(found.stdout)["error"]
