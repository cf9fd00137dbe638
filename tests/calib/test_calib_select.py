"""Which images calibrate: coverage against exhaustive search, k-center against its definition, overlap with validation, the sweep."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from smallnet import CONTRACT, HEIGHT, WIDTH, photos, small_bundle
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.calib.select import choose_images, cover_classes, k_center, shared_images
from segc.calib.table import read_table
from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import read_image, write_image
from segc.data.dataset import open_dataset
from segc.runtime.bundle import read_manifest, write_manifest
from segc.validate.evaluate import validate

shares = arrays(float, st.tuples(st.integers(3, 7), st.integers(1, 4)), elements=st.floats(0, 1))


@given(shares, st.integers(1, 3))
def test_coverage_reaches_the_bound_of_greedy_choices(pixels: np.ndarray, count: int) -> None:
    parts = pixels / np.maximum(pixels.sum(0), np.finfo(float).tiny)

    def seen(rows: tuple[int, ...] | list[int]) -> float:
        return float(np.sqrt(parts[list(rows)].sum(0)).sum())

    chosen = cover_classes(pixels, count)
    assert len(set(chosen)) == count
    best = max(seen(rows) for rows in itertools.combinations(range(len(pixels)), count))
    assert seen(chosen) >= (1 - 1 / np.e) * best - 1e-9


def test_coverage_finds_the_rare_class() -> None:
    road, rare = [0.9, 0.1, 0.0], [0.8, 0.0, 0.2]
    assert 5 in cover_classes(np.array([road] * 5 + [rare] + [road] * 5), 2)


@given(arrays(float, (9, 2), elements=st.floats(-5, 5), unique=True), st.integers(1, 9))
def test_k_center_takes_the_farthest(points: np.ndarray, count: int) -> None:
    chosen = k_center(points, count)
    assert len(set(chosen)) == count
    for index in range(1, count):
        far = np.min([((points - points[other]) ** 2).sum(1) for other in chosen[:index]], axis=0)
        assert far[chosen[index]] == pytest.approx(np.delete(far, chosen[:index]).max())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve train and three val images; class c is in one of the training labels only, and one image is in both splits."""
    root = tmp_path_factory.mktemp("set")
    (root / "dataset.json").write_text(json.dumps({"name": "small", "classes": CONTRACT.classes, "palette": CONTRACT.palette}))
    sources = [path.read_bytes() for path in photos(root)]
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for index in range(count):
            image = root / "images" / split / f"{index:02}.png"
            write_image(image, random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
            label = np.zeros((HEIGHT, WIDTH), np.uint8)
            label[: index % 3] = 1
            label[-2:] = 2 if (split, index) == ("train", 7) else 255
            write_image(root / "labels" / split / image.name, label)
    for split in ("train", "val"):
        (root / "images" / split / "00.png").write_bytes(sources[0])
    return root


@pytest.fixture
def bundle(tmp_path: Path, root: Path) -> Path:
    bundle = small_bundle(tmp_path / "bundle")
    data = {"root": str(root), "layout": "folder", "split": "val"}
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"provenance": {"data": data}}))
    return bundle


def test_rules_on_a_labelled_set(root: Path) -> None:
    train = open_dataset(root, split="train")
    for select in ("coverage", "random", "k-center"):
        chosen = choose_images(train, 3, seed=1, select=select)
        assert len(set(chosen)) == 3 and chosen == sorted(chosen) == choose_images(train, 3, seed=1, select=select)
    assert "07.png" in [path.name for path in choose_images(train, 3)], "coverage is the default where there are labels"
    with pytest.raises(UserError, match="without labels cannot be chosen by class coverage"):
        choose_images(train.image_paths, 3, select="coverage")
    with pytest.raises(UserError, match="Did you mean 'coverage'"):
        choose_images(train, 3, select="coverag")


def test_images_of_both_splits_are_found_by_content(root: Path) -> None:
    train, val = (open_dataset(root, split=split).image_paths for split in ("train", "val"))
    assert shared_images(train, val) == [root / "images" / "train" / "00.png"]


def test_the_table_says_how_and_warns_of_overlap(bundle: Path, root: Path) -> None:
    table = read_table(calibrate(bundle, open_dataset(root, split="train"), count=12, threads=1))
    assert table.select == "coverage" and [note for note in table.notes if note.startswith("1 of 12 calibration images are validation")]
    apart = [path for path in open_dataset(root, split="train").image_paths if path.name != "00.png"]
    table = read_table(calibrate(bundle, apart, count=10, threads=1))
    assert table.select == "random" and table.notes == []


@pytest.mark.parametrize(("value", "told"), [(1, "show b only: ranges may not hold for the other 2 classes"), (255, "show no class only")])
def test_images_of_one_class_or_none_are_noted(bundle: Path, root: Path, tmp_path: Path, value: int, told: str) -> None:
    alike = tmp_path / "alike"
    shutil.copytree(root, alike)
    for path in (alike / "labels" / "train").iterdir():
        write_image(path, np.full((HEIGHT, WIDTH), value, np.uint8))
    table = read_table(calibrate(bundle, open_dataset(alike, split="train"), count=8, threads=1))
    assert len(table.images) == 8 and told in table.notes[0]


def test_a_sweep_compares_counts_and_seeds_and_goes_on(bundle: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "model.onnx").read_bytes()
    words = ["calibrate", str(bundle), "--method", "minmax", "--select", "random", "--threads", "1", "--json", "--count"]
    done = CliRunner().invoke(app, [*words, "2", "--seeds", "2"])
    found = json.loads(done.stdout)["data"]
    assert [(row["count"], row["seed"]) for row in found["rows"]] == [(2, 0), (2, 1)]
    assert all(row["drop"] == pytest.approx(found["fp32"] - row["miou"]) for row in found["rows"])
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "model.onnx", "results"]
    assert (bundle / "model.onnx").read_bytes() == before
    calls = []
    monkeypatch.setattr("segc.pipeline.calibration_sweep.calibrate", lambda *args, **how: calls.append(how) or calibrate(*args, **how))
    again = json.loads(CliRunner().invoke(app, [*words, "2,3"]).stdout)["data"]
    assert [(row["count"], row["seed"]) for row in again["rows"]] == [(2, 0), (3, 0)]
    assert [how["count"] for how in calls] == [3], "what is stored is not measured again"
    image = root / "images" / "val" / "01.png"
    before = image.read_bytes()
    write_image(image, 255 - read_image(image))
    assert CliRunner().invoke(app, [*words, "2,3"]).exit_code == 0
    image.write_bytes(before)
    assert [how["count"] for how in calls] == [3, 2, 3], "other images are measured anew"
    for wrong in (["0"], ["a"], ["99,3"], ["2,3", "-o", "x.json"], ["2", "--from-cache", "x", "--seeds", "2"]):
        assert CliRunner().invoke(app, [*words, *wrong]).exit_code == 2


@pytest.mark.parametrize(("preferred", "used"), [("tensorrt", "onnxruntime"), ("openvino", "openvino")])
def test_a_sweep_scores_where_int8_is_preferred_but_on_no_engine(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, preferred: str, used: str
) -> None:
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"preferred": {"precision": "int8", "backend": preferred}}))
    (bundle / "engines").mkdir()
    seen = []

    def scored(target: str, *args: Any, **how: Any) -> dict[str, Any]:
        result = validate(target, *args, **how)
        seen.append((Path(target).name, result["backend"], (Path(target.partition("@")[0]) / "engines").exists()))
        return result

    monkeypatch.setattr("segc.pipeline.calibration_sweep.validate", scored)
    done = CliRunner().invoke(app, ["calibrate", str(bundle), "--method", "minmax", "--count", "2", "--seeds", "2", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert seen[1:] == [("bundle@int8", used, False)] * 2
