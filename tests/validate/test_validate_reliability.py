"""Expected calibration error against the sum of the papers, bin by bin, and on pixels whose error is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import DYNAMIC, make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import read_image, write_image
from segc.data.dataset import open_dataset
from segc.validate.reliability import BINS, Reliability, reliability


def by_the_paper(probabilities: np.ndarray, label: np.ndarray, bins: int) -> float:
    """Guo et al., equation 3: bins ((m - 1) / M, m / M], a sum over masks."""
    confidence, predicted = probabilities.max(0).ravel(), probabilities.argmax(0).ravel()
    known = label.ravel() != 255
    confidence, right = confidence[known], (predicted == label.ravel())[known]
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * error


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_ece_is_that_of_the_paper_whatever_the_images_are(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    images = [(rng.dirichlet(np.ones(classes), (6, 7)).transpose(2, 0, 1), rng.choice([*range(classes), 255], (6, 7))) for _ in range(3)]
    counted = Reliability()
    for probabilities, label in images:
        counted.add(probabilities, label, 255)
    whole = by_the_paper(np.concatenate([each for each, _ in images], 2), np.concatenate([each for _, each in images], 1), BINS)
    assert counted.ece == pytest.approx(whole, abs=1e-9)


def test_pixels_that_are_as_often_right_as_they_say() -> None:
    probabilities = np.stack([np.full((1, 100), 0.7), np.full((1, 100), 0.3)])
    label = (np.arange(100) >= 70).astype(np.uint8)[None]
    sure, honest = Reliability(), Reliability()
    honest.add(probabilities, label, 255)
    sure.add(np.stack([np.ones((1, 100)), np.zeros((1, 100))]), label, 255)
    assert honest.ece == pytest.approx(0, abs=1e-9) and sure.ece == pytest.approx(30)
    assert sure.gaps[-1] == pytest.approx(30), "surer than right"


def test_a_graph_of_logits_is_measured_and_one_of_classes_refused(tmp_path: Path) -> None:
    dataset = open_dataset(make_set(tmp_path / "set"))
    bundle = make_bundle(tmp_path / "logits", DYNAMIC.model_copy(update={"output": "logits"}))
    result = reliability(str(bundle), dataset)
    counted = Reliability()
    for pair in dataset:
        red = read_image(pair.image)[..., 0].astype(np.float64)
        bright = 1 / (1 + np.exp(127.5 - red))
        counted.add(np.stack([1 - bright, bright]), dataset.read_label(pair), 255)
    assert result["rows"][0]["value"] == pytest.approx(counted.ece, abs=1e-3) and result["rows"][0]["value"] > 0
    assert sum(each["pixels"] for each in result["bins"]) == 3 * 20 * 29
    with pytest.raises(UserError, match="gives class maps, not logits"):
        reliability(str(make_bundle(tmp_path / "classes")), dataset)


def test_a_label_of_another_size_is_told(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    write_image(root / "labels" / "val" / "1.png", np.zeros((20, 31), np.uint8))
    bundle = make_bundle(tmp_path / "logits", DYNAMIC.model_copy(update={"output": "logits"}))
    with pytest.raises(UserError, match=r"1\.png is 31x20, but its image is 30x20 pixels"):
        reliability(str(bundle), open_dataset(root))


def test_the_command_line(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    bundle = make_bundle(tmp_path / "logits", DYNAMIC.model_copy(update={"output": "logits"}))
    told = json.loads(CliRunner().invoke(app, ["validate", str(bundle), "--data", str(root), "--ece", "--json"]).stdout)
    stored = json.loads((bundle / "results" / "reliability.fp32.onnxruntime.json").read_text())
    assert told["data"]["reliability"]["rows"] == stored["rows"] and "ECE" in told["summary"]
