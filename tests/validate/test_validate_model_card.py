"""The model card: its metadata is YAML of the Hub's form, and every number in it is one of a stored row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.rows import value_of
from segc.data.dataset import open_dataset
from segc.validate.evaluate import validate


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    found = make_bundle(tmp_path / "bundle")
    for backend in ("onnxruntime", "openvino"):
        validate(str(found), open_dataset(make_set(tmp_path / backend)), against=str(found), backend=backend)
    return found


def card_of(bundle: Path, *options: str) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(app, ["card", str(bundle), *options, "--json"])
    assert done.exit_code == 0, done.output
    _, head, text = Path(json.loads(done.stdout)["data"]["file"]).read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_metrics_are_those_of_the_stored_results(bundle: Path) -> None:
    head, text = card_of(bundle, "--license", "apache-2.0")
    assert head["license"] == "apache-2.0" and head["pipeline_tag"] == "image-segmentation" and head["datasets"] == ["threshold"]
    (model,) = head["model-index"]
    assert model["name"] == "threshold"
    for result, backend in zip(model["results"], ("onnxruntime", "openvino"), strict=True):
        stored = json.loads((bundle / "results" / f"validation.fp32.{backend}.json").read_text())
        assert backend in result["task"]["name"] and result["task"]["type"] == "image-segmentation"
        assert result["dataset"] == {"type": "threshold", "name": "threshold", "split": "val", "args": {"images": 3}}
        found = {metric["type"]: metric["value"] for metric in result["metrics"]}
        expected = {"mean_iou": "mIoU", "mean_accuracy": "mAcc", "accuracy": "aAcc"}
        assert found == {kind: round(value_of(stored, name), 2) for kind, name in expected.items()}
        assert f"| {found['mean_iou']:.2f} | {found['mean_accuracy']:.2f} |" in text
    for name in ("dark", "bright"):
        assert f"| {name} |" in text
    assert stored["dataset"]["sha256"] in text


def test_where_it_goes_and_what_is_unknown(bundle: Path, tmp_path: Path) -> None:
    head, _ = card_of(bundle, "-o", str(tmp_path / "card.md"))
    assert head["license"] == "unknown" and (tmp_path / "card.md").is_file() and not (bundle / "README.md").exists()
    assert head["tags"] == ["semantic-segmentation", "onnx"]


def test_nothing_measured_is_no_card(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["card", str(make_bundle(tmp_path / "bundle")), "--json"])
    assert done.exit_code == 2 and "segc validate" in json.loads(done.stdout)["error"]
