"""Calibration of a small graph on photographs: ranges against a direct ONNX Runtime run; the table; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from smallnet import CONTRACT, constant, photos, small_bundle, small_model
from typer.testing import CliRunner

import segc.calib.stream as module
from segc.calib.calibrate import calibrate, collect, contract_hash
from segc.calib.ranges import BINS
from segc.calib.select import choose_images, images_in, training_set
from segc.calib.table import CalibrationTable, read_table, write_table
from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import read_image


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return photos(tmp_path / "photos")


def test_ranges_are_those_of_a_direct_run(bundle: Path, images: list[Path]) -> None:
    table = read_table(calibrate(bundle, images, method="minmax", threads=1))
    model = onnx.load(bundle / "model.onnx")
    names = ["scaled", "stem", "residual", "up", "joined", "mix", "classify"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(names, {"images": read_image(path)[None]}) for path in images]
    for index, name in enumerate(names):
        assert table.ranges[name] == pytest.approx(max(np.abs(values[index]).max() for values in found), rel=1e-5)
    assert not {"images", "index", "class_map", "stem_w"} & set(table.ranges)
    assert [image.name for image in table.images] == sorted(path.name for path in images)
    assert table.percentile is None and "only 3 calibration images" in table.notes[0]


def test_activations_of_five_axes_have_ranges(images: list[Path], tmp_path: Path) -> None:
    """Windows of attention are."""
    model = small_model()
    at = [node.name for node in model.graph.node].index("classify")
    shapes = {"five": [1, 2, 4, 32, 48], "four": [1, 8, 32, 48]}
    model.graph.initializer.extend(constant(f"{name}_shape", shape, np.int64) for name, shape in shapes.items())
    model.graph.node.insert(at, onnx.helper.make_node("Reshape", ["mix", "five_shape"], ["five"]))
    model.graph.node.insert(at + 1, onnx.helper.make_node("Reshape", ["five", "four_shape"], ["four"]))
    model.graph.node[at + 2].input[0] = "four"
    ranges = read_table(calibrate(small_bundle(tmp_path / "windows", model), images, threads=1)).ranges
    assert ranges["five"] == ranges["mix"] > 0


def test_same_seed_same_table_and_one_image_is_noted(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    first, second = (
        calibrate(bundle, order, count=1, seed=5, output=tmp_path / name) for name, order in (("a", images), ("b", images[::-1]))
    )
    assert first.read_bytes() == second.read_bytes()
    assert "only 1 calibration" in read_table(first).notes[0] and len(read_table(first).images) == 1


def test_histograms_do_not_grow(images: list[Path]) -> None:
    histograms = collect(small_model(), CONTRACT, images * 3, threads=1)
    assert all(item.counts.shape == (BINS,) and len(vars(item)) == 3 for item in histograms.values())
    assert histograms["stem"].counts.sum() == 9 * 8 * 32 * 48


def test_a_batch_that_is_not_full(tmp_path: Path) -> None:
    batches = list(module._batches([np.full((2, 2, 3), i, np.uint8) for i in range(3)], 2))
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 2]]


def test_refusals(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no calibration images"):
        calibrate(bundle, [])
    with pytest.raises(UserError, match="at least 1 image"):
        calibrate(bundle, images, count=0)
    with pytest.raises(UserError, match="Did you mean 'percentile'"):
        calibrate(bundle, images, method="percentil")
    with pytest.raises(UserError, match="at most 100"):
        calibrate(bundle, images, percentile=120)
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.png"):
        calibrate(bundle, [tmp_path / "broken.png"])
    with pytest.raises(UserError, match="names no dataset"):
        training_set(bundle)
    assert not (bundle / "calibration.json").exists()


def test_nan_in_weights_names_the_tensor(tmp_path: Path, images: list[Path]) -> None:
    model = small_model()
    weights = next(item for item in model.graph.initializer if item.name == "inner_b")
    weights.CopyFrom(constant("inner_b", [np.nan] + [0.0] * 7))
    bundle = small_bundle(tmp_path / "nan", model)
    with pytest.raises(UserError, match=r"tensor inner holds NaN.*astronaut"):
        calibrate(bundle, images)
    assert [path.name for path in bundle.iterdir() if "calibration" in path.name] == []


def test_interrupt_leaves_no_table(bundle: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(path: Path) -> np.ndarray:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(module, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, images)
    assert len(calls) == 2 and sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "model.onnx"]


def test_table_round_trip_and_mismatch(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    table = read_table(calibrate(bundle, images))
    write_table(tmp_path / "again.json", table)
    assert read_table(tmp_path / "again.json") == table
    table.check_graph(table.graph_sha256, contract_hash(CONTRACT))
    with pytest.raises(UserError, match="another graph"):
        table.check_graph("0" * 64, table.contract_sha256)
    with pytest.raises(UserError, match="another pipeline contract"):
        table.check_graph(table.graph_sha256, contract_hash(CONTRACT.model_copy(update={"mean": (0, 0, 0)})))
    assert contract_hash(CONTRACT.model_copy(update={"palette": [(1, 1, 1)] * 3})) == contract_hash(CONTRACT)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"ranges": {"x": -1.0}}, r"ranges\.x"), ({"schema_version": 2}, "schema_version"), ({"extra": 1}, "extra"), ({"seed": None}, "seed")],
)
def test_broken_tables_are_named(tmp_path: Path, change: dict, words: str) -> None:
    table = CalibrationTable(method="mse", percentile=None, seed=0, graph_sha256="0", contract_sha256="0", images=[], ranges={})
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**table.model_dump(), **change}))
    with pytest.raises(UserError, match=words):
        read_table(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ranges": {"x": NaN}}'])
def test_files_that_are_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=r"calibration\.json"):
        read_table(tmp_path / "calibration.json")


def test_choice(tmp_path: Path) -> None:
    paths = [Path(f"{index:02}.png") for index in range(30)]
    chosen = choose_images(paths, 7, seed=3)
    assert chosen == sorted(set(chosen)) == choose_images(paths[::-1], 7, seed=3) != choose_images(paths, 7, seed=4)
    assert choose_images(paths, 99) == paths
    with pytest.raises(UserError, match="do not exist"):
        images_in(tmp_path / "none")
    with pytest.raises(UserError, match="no image files"):
        images_in(tmp_path)


def test_command_line(bundle: Path, images: list[Path]) -> None:
    result = CliRunner().invoke(app, ["calibrate", str(bundle), "--images", str(images[0].parent), "--method", "mse", "--json"])
    assert result.exit_code == 0 and read_table(bundle / "calibration.json").method == "mse"
    assert CliRunner().invoke(app, ["calibrate", str(bundle), "--images", str(images[0].parent), "--method", "x"]).exit_code == 2
