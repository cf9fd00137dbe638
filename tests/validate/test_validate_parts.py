"""A validation in parts, in processes, in shards and after a stop gives to the bit what one pass gives."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallnet import photos, small_bundle
from toy import DYNAMIC, make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.images import read_image, write_image
from segc.core.rows import value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.validate import evaluate
from segc.validate.evaluate import count_shard, validate
from segc.validate.parts import Job, Parts, count_missing
from segc.validate.sides import Side
from segc.validate.workers import Shard

IMAGES, CHUNK = 11, 4
SMALL = Contract(**{**DYNAMIC.model_dump(), "batch": 1, "height": 10, "width": 15})


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CHUNK", CHUNK)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "set", IMAGES)


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[str, str]:
    """One that needs its images resized, and the exact one."""
    return str(make_bundle(tmp_path / "small", SMALL)), str(make_bundle(tmp_path / "full"))


def stored(path: Path) -> tuple[dict[str, Any], bytes]:
    """A result without what tells of time, and its confusion matrices."""
    result = json.loads(path.read_text())
    del result["seconds"], result["environment"]["time"]
    result["rows"] = [row for row in result["rows"] if row["metric"] != "images/s"]
    del result["confusions"]["file"]
    return result, path.with_suffix(".confusion.npz").read_bytes()


def once(bundles: tuple[str, str], root: Path, output: Path, **options: Any) -> tuple[dict[str, Any], bytes]:
    validate(bundles[0], open_dataset(root), against=bundles[1], places=True, output=output, **options)
    return stored(output)


def test_processes_and_shards_give_the_result_of_one_pass(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    expected = once(bundles, root, tmp_path / "one.json")
    assert expected[0]["notices"] and expected[0]["dataset"]["n"] == IMAGES
    assert once(bundles, root, tmp_path / "two.json", workers=2, threads=2) == expected
    for index in (1, 0):
        count_shard(bundles[0], open_dataset(root), Shard(index, 2), against=bundles[1], places=True, parts=tmp_path / f"parts{index}")
    shutil.copytree(tmp_path / "parts1", tmp_path / "parts0", dirs_exist_ok=True)
    assert once(bundles, root, tmp_path / "three.json", parts=tmp_path / "parts0") == expected
    assert "images/s" not in {row["metric"] for row in json.loads((tmp_path / "three.json").read_text())["rows"]}, "nothing was run"
    assert not list(tmp_path.glob("*.parts"))


def test_a_stopped_validation_counts_only_what_is_missing(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    expected = once(bundles, root, tmp_path / "whole.json")
    label, sound = root / "labels" / "val" / "9.png", (root / "labels" / "val" / "9.png").read_bytes()
    write_image(label, np.full((20, 30), 9, np.uint8))
    with pytest.raises(UserError, match=r"9\.png holds 9"):
        once(bundles, root, tmp_path / "stopped.json")
    kept = len(list((tmp_path / "stopped.parts").iterdir()))
    assert kept and not (tmp_path / "stopped.json").exists()
    label.write_bytes(sound)
    assert once(bundles, root, tmp_path / "stopped.json") == expected
    row = next(row for row in json.loads((tmp_path / "stopped.json").read_text())["rows"] if row["metric"] == "images/s")
    assert row["n"] == IMAGES - CHUNK * kept


def job(target: str, dataset: SegmentationSet, **options: Any) -> Job:
    return Job(Side.of(target), None, dataset, dataset.pairs, size=CHUNK, **options)


def test_a_part_is_found_only_under_all_that_it_depends_on(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    parts, dataset = Parts(tmp_path / "parts"), open_dataset(root)
    list(count_missing(job(bundles[0], dataset), parts, [0], 1))

    def there(one: Job) -> bool:
        return parts.has(one.chunk(0))

    assert there(job(bundles[0], dataset))
    assert not there(job(bundles[1], dataset)), "another graph"
    assert not there(job(bundles[0], dataset, places=True)), "other scores"
    assert not there(dataclasses.replace(job(bundles[0], dataset), target=Side.of(bundles[0], "openvino"))), "another backend"
    write_image(root / "labels" / "val" / "2.png", np.zeros((20, 30), np.uint8))
    assert not there(job(bundles[0], dataset)), "another label"


def test_all_of_the_counts_is_kept(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    dataset, parts = open_dataset(root), Parts(tmp_path / "parts")
    one = Job(Side.of(bundles[0]), Side.of(bundles[1]), dataset, dataset.pairs, places=True, size=CHUNK)
    saved: list[Any] = []
    keep = parts.save
    parts.save = lambda chunk, counts: (saved.append((chunk, counts)), keep(chunk, counts))[0]  # type: ignore[method-assign]
    items = list(count_missing(one, parts, one.chunks, 1))
    assert [item.index if item else None for item in items] == [*[None] * 3, 0, *[None] * 3, 1, *[None] * 2, 2]
    for chunk, counts in saved:
        assert plain(parts.load(chunk)) == plain(counts)


def plain(value: Any) -> Any:
    """A value of dataclasses and arrays as lists, whatever fields they have."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "arrays"):
        return {name: array.tolist() for name, array in value.arrays().items()}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_a_damaged_part_is_named(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root)
    count_shard(bundles[0], dataset, Shard(0, 1), parts=tmp_path / "parts")
    part = next((tmp_path / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{part.name} is no part of a validation.* Remove it"):
        validate(bundles[0], dataset, parts=tmp_path / "parts")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_a_worker_is_told_like_one_here(bundles: tuple[str, str], root: Path, tmp_path: Path, workers: int) -> None:
    write_image(root / "labels" / "val" / "1.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match=r"1\.png is 5x5.*segc data check"):
        once(bundles, root, tmp_path / "x.json", workers=workers, threads=2)


def test_class_maps_do_not_depend_on_threads(tmp_path: Path) -> None:
    """What lets counts be shared out over any number of processes; torch: tests/models."""
    images = [read_image(path) for path in photos(tmp_path)]
    bundle = str(small_bundle(tmp_path / "bundle"))
    for backend in ("onnxruntime", "openvino"):
        found = [[Segmenter(open_runner(bundle, backend, threads)).class_map(image) for image in images] for threads in (1, 2, 5)]
        assert len(np.unique(found[0])) > 1
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])


def test_the_reference_runs_once_for_several_targets(
    bundles: tuple[str, str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, expected = tmp_path / "maps", once(bundles, root, tmp_path / "one.json")
    assert once(bundles, root, tmp_path / "two.json", maps=maps) == expected
    run = Segmenter.class_map
    ran: list[str] = []

    def noting(self: Segmenter, image: Any) -> Any:
        ran.append(str(self.contract.height))
        return run(self, image)

    monkeypatch.setattr(Segmenter, "class_map", noting)
    again = once(bundles, root, tmp_path / "three.json", maps=maps)
    assert again == expected and ran == ["10"] * IMAGES, "the reference, which has no fixed height, was not run"
    assert value_of(json.loads((tmp_path / "three.json").read_text()), "pixel agreement") < 100
    assert "images/s" not in {row["metric"] for row in json.loads((tmp_path / "three.json").read_text())["rows"]}


@pytest.mark.parametrize(("text", "found"), [("1/1", Shard(0, 1)), ("2/3", Shard(1, 3)), ("env", Shard(2, 4))])
def test_shards(text: str, found: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Shard.parse(text) == found
    assert sorted(index for each in range(found.count) for index in Shard(each, found.count).of(range(10))) == list(range(10))


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "env", "²/3"])
def test_no_shards(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        Shard.parse(text)


def test_the_command_line(bundles: tuple[str, str], root: Path, tmp_path: Path) -> None:
    words = ["validate", bundles[0], "--data", str(root), "--json"]

    def typed(*more: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, [*words, *more])
        return done.exit_code, json.loads(done.stdout)

    assert typed("--shard", "1/2")[0] == 2
    assert "--fail-if in the command without" in typed("--shard", "1/2", "--fail-if", "mIoU < 5", "--parts", "x")[1]["error"]
    code, told = typed("--shard", "2/2", "--parts", str(tmp_path / "parts"))
    assert code == 0 and told["data"] == {"shard": 2, "of": 2, "images": 4, "parts": str(tmp_path / "parts")}
    code, told = typed("--parts", str(tmp_path / "parts"))
    assert code == 0 and told["data"]["dataset"]["n"] == IMAGES
    assert next(row for row in told["data"]["rows"] if row["metric"] == "images/s")["n"] == 7
