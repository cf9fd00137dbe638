"""What is wrong with a dataset is said in a sentence that names the file and the value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segc.core.errors import UserError
from segc.data.check import Kind, check_dataset
from segc.data.dataset import open_dataset

NAMES = ["sky", "road", "car"]
H, W = 12, 16


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sound dataset of 3 + 2 pairs."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "images" / split / f"{index}.png").write_bytes(png(rng.integers(0, 255, (H, W, 3), np.uint8)))
            label = rng.integers(0, 3, (H, W), np.uint8)
            label[0, :3] = 0, 1, 255
            (tmp_path / "labels" / split / f"{index}.png").write_bytes(png(label))
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "small", "classes": NAMES}))
    return tmp_path


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


IMAGE, LABEL = "images/train/1.png", "labels/train/1.png"
DAMAGE: dict[str, tuple[Kind, str, Callable[[Path], object]]] = {
    "truncated image": ("unreadable-image", "truncated", lambda r: halve(r / IMAGE)),
    "empty image": ("unreadable-image", "empty", lambda r: (r / IMAGE).write_bytes(b"")),
    "text as image": ("unreadable-image", "not an image", lambda r: (r / IMAGE).write_text("hello")),
    "truncated label": ("unreadable-label", "truncated", lambda r: halve(r / LABEL)),
    "RGB label": ("unreadable-label", "3 channels", lambda r: (r / LABEL).write_bytes(png(np.zeros((H, W, 3), np.uint8)))),
    "label out of range": ("label-out-of-range", "7 (192 pixels)", lambda r: (r / LABEL).write_bytes(png(np.full((H, W), 7, np.uint8)))),
    "16-bit label": ("label-out-of-range", "257 (192 pixels)", lambda r: (r / LABEL).write_bytes(png(np.full((H, W), 257, np.uint16)))),
    "other size": ("size-mismatch", "16x12, label 16x9", lambda r: (r / LABEL).write_bytes(png(np.zeros((9, W), np.uint8)))),
    "missing label": ("image-without-label", "labels/train", lambda r: (r / LABEL).unlink()),
    "missing image": ("label-without-image", "images/train", lambda r: (r / IMAGE).unlink()),
    "image in both splits": (
        "split-overlap",
        "images/train/1.png",
        lambda r: (r / "images/val/0.png").write_bytes((r / IMAGE).read_bytes()),
    ),
    "image twice": ("duplicate-image", "images/train/0.png", lambda r: (r / IMAGE).write_bytes((r / "images/train/0.png").read_bytes())),
    "nothing labelled": ("all-ignored", "no pixel", lambda r: (r / LABEL).write_bytes(png(np.full((H, W), 255, np.uint8)))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_check_finds_exactly_the_damage(small: Path, name: str) -> None:
    assert check_dataset(small).findings == []
    kind, told, damage = DAMAGE[name]
    damage(small)
    report = check_dataset(small)
    assert [finding.kind for finding in report.findings] == [kind]
    assert told in report.findings[0].detail
    assert report.passed == (kind in {"label-without-image", "duplicate-image", "all-ignored"})


@pytest.mark.parametrize("name", ["truncated label", "RGB label", "label out of range", "16-bit label"])
def test_reading_a_bad_label_names_it(small: Path, name: str) -> None:
    DAMAGE[name][2](small)
    dataset = open_dataset(small, split="train")
    with pytest.raises(UserError, match=r"1\.png"):
        dataset.read_label(dataset.pairs[1])


def test_missing_label_is_told_on_opening(small: Path) -> None:
    (small / LABEL).unlink()
    with pytest.raises(UserError, match=r"1 of 3 images .* have no label .* 1\.png.*segc data check"):
        open_dataset(small, split="train")


def test_two_images_of_one_label_are_refused(small: Path) -> None:
    (small / "images/train/1.jpg").write_bytes((small / IMAGE).read_bytes())
    for use in (lambda: open_dataset(small, split="train"), lambda: check_dataset(small)):
        with pytest.raises(UserError, match=r"1\.jpg and 1\.png share"):
            use()


def test_training_refuses_a_bad_label(small: Path) -> None:
    from mmengine.registry import DefaultScope

    from segc.data.mmseg_dataset import SegcDataset

    DefaultScope.get_instance("test_data_bad_input", scope_name="mmseg")
    DAMAGE["16-bit label"][2](small)
    dataset = SegcDataset(small, split="train", pipeline=[{"type": "LoadTrainIds"}])
    assert dataset[0]["gt_seg_map"].shape == (H, W)
    with pytest.raises(UserError, match=r"1\.png holds 257"):
        dataset[1]


def test_frequencies_equal_a_count(small: Path) -> None:
    for threads in (1, 3):
        report = check_dataset(small, threads=threads)
        for split in report.splits:
            labels = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((small / "labels" / split.split).iterdir())])
            assert split.pixels == [int((labels == value).sum()) for value in range(3)]
            assert split.ignored == int((labels == 255).sum())
            assert split.images_with == [int((labels == value).any((1, 2)).sum()) for value in range(3)]
            assert sum(split.shares()) + split.ignored_share() == pytest.approx(100)


def test_absent_class_and_empty_or_missing_split(small: Path) -> None:
    (small / "dataset.json").write_text(json.dumps({"classes": [*NAMES, "unicorn"]}))
    assert [(finding.kind, finding.detail) for finding in check_dataset(small).findings] == [("absent-class", "no pixel of unicorn")] * 2
    for path in [*(small / "images/val").iterdir(), *(small / "labels/val").iterdir()]:
        path.unlink()
    assert {"empty-split", "absent-class"} == {finding.kind for finding in check_dataset(small).findings}
    with pytest.raises(UserError, match=r"split 'val' of .* is empty"):
        open_dataset(small)
    (small / "images/val").rmdir()
    assert "missing-split" in {finding.kind for finding in check_dataset(small).findings}
    with pytest.raises(UserError, match=r"no split 'val'.*splits found: train"):
        open_dataset(small)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"classes": ["a"], "palete": []}', "unknown key 'palete'. Did you mean 'palette'"),
        ('{"classes": ["a", "a"]}', "occurs twice"),
        ('{"classes": ["a"], "palette": [[0, 0, 300]]}', "0..255"),
        ('{"classes": ["a", "b"], "palette": [[0, 0, 0]]}', "2 classes but 1 palette"),
        ('{"classes": ["a", "b"], "ignore_index": 1}', "ignore_index 1"),
        ('{"classes": ["a", "b"], "label_map": {"3": 2}}', "neither train ids"),
        ('{"name": "x"}', "classes"),
        ('"words"', "holds a str"),
        ("{", "not a readable JSON"),
    ],
)
def test_bad_dataset_json(small: Path, content: str, told: str) -> None:
    (small / "dataset.json").write_text(content)
    with pytest.raises(UserError) as error:
        open_dataset(small)
    assert told in str(error.value)
    assert "dataset.json" in str(error.value)


def test_wrong_roots_and_names(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (small / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"classes of .* unknown"):
        open_dataset(small)
    with pytest.raises(UserError, match="Did you mean 'camvid'"):
        open_dataset(small, layout="camvit")
    with pytest.raises(UserError, match="does not exist"):
        open_dataset(small / "nowhere")
    with pytest.raises(UserError, match="Did you mean 'camvid'"):
        check_dataset(small, layout="camvit")
    parent = tmp_path_factory.mktemp("parent")
    with pytest.raises(UserError, match="none of the layouts"):
        open_dataset(parent)
    shutil.move(small, parent / "inner")
    with pytest.raises(UserError, match=r"Did you mean .*inner"):
        open_dataset(parent)


def test_check_on_the_command_line(small: Path) -> None:
    from segc.cli.data import app

    run = CliRunner().invoke
    sound = run(app, ["check", str(small), "--json"])
    assert sound.exit_code == 0
    assert json.loads(sound.stdout)["data"]["splits"][0]["pairs"] == 3
    DAMAGE["label out of range"][2](small)
    shown = run(app, ["check", str(small)])
    assert shown.exit_code == 1
    assert "label-out-of-range labels/train/1.png" in shown.stdout
    assert json.loads(run(app, ["check", str(small), "--json"]).stdout)["data"]["counts"] == {"label-out-of-range": 1}
    assert run(app, ["check", str(small / "nowhere")]).exit_code == 2
