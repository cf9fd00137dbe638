"""The report: only results of the graphs that the bundle holds, and no path of this machine in what is passed on."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from toy import make_bundle, make_set

from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.data.dataset import open_dataset
from segc.runtime.benchmark import benchmark
from segc.runtime.bundle import Graph, read_manifest, write_manifest
from segc.validate.bootstrap import Bootstrap
from segc.validate.evaluate import validate
from segc.validate.report import write_report


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with an "int8" graph (the same function), both validated and timed."""
    folder = make_bundle(tmp_path / "bundle")
    manifest = read_manifest(folder)
    (folder / "model.int8.onnx").write_bytes((folder / "model.onnx").read_bytes())
    graph = Graph(file="model.int8.onnx", sha256=sha256_file(folder / "model.int8.onnx"), opset=17)
    provenance = {"data": {"root": str(tmp_path / "set"), "layout": "folder", "split": "val"}}
    write_manifest(folder, manifest.model_copy(update={"graphs": {**manifest.graphs, "int8": graph}, "provenance": provenance}))
    dataset = open_dataset(make_set(tmp_path / "set"))
    validate(f"{folder}@fp32", dataset)
    validate(f"{folder}@int8", dataset, against=f"{folder}@fp32")
    benchmark(f"{folder}@int8", runs=2, warmup=1)
    return folder


def reported(bundle: Path) -> dict:
    return json.loads((write_report(bundle).parent / "report.json").read_text())


def test_a_report_of_what_was_measured(bundle: Path) -> None:
    data = reported(bundle)
    assert [line["precision"] for line in data["targets"]] == ["fp32", "int8"] and data["outdated"] == []
    assert data["chosen"]["precision"] == "int8" and data["chosen"]["p50_ms"] > 0
    assert data["timings"][0]["conditions"]["precision"] == "int8"


def test_intervals_and_places_are_shown(tmp_path: Path) -> None:
    """Two graphs that differ, one at another threshold: the report says how sure its loss is, and where."""
    folder = make_bundle(tmp_path / "bundle")
    model = onnx.load(folder / "model.onnx")
    next(each for each in model.graph.initializer if each.name == "half").float_data[0] = 150.0
    onnx.save(model, folder / "model.int8.onnx")
    int8 = Graph(file="model.int8.onnx", sha256=sha256_file(folder / "model.int8.onnx"), opset=17)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"graphs": {**manifest.graphs, "int8": int8}}))
    dataset = open_dataset(make_set(tmp_path / "set", 6))
    for against in (f"{folder}@int8", f"{folder}@fp32"):
        validate(f"{folder}@int8", dataset, against=against, places=True, bootstrap=Bootstrap(200, 0.9, seed=5))
        page = write_report(folder).read_text()
        same = against.endswith("int8")
        told = value_row(folder, "drop mIoU")
        text = f"90 % CI {told['ci_low'] + 0.0:+.2f} to {told['ci_high'] + 0.0:+.2f}"
        for written in (page, (folder / "report" / "report.md").read_text()):
            assert text in written and ("not distinguishable from zero" in written) >= same
            assert "boundary mIoU" in written and "darkest third" in written and "200 draws, seed 5" in written
        assert ("Classes taken for another" in page) is not same and (">yes<" in page) is not same
        assert "Intervals rest on 6 images" in page


def value_row(folder: Path, metric: str) -> dict:
    result = json.loads((folder / "results" / "validation.int8.onnxruntime.json").read_text())
    return next(row for row in result["rows"] if row["metric"] == metric)


def test_a_result_from_before_the_intervals_is_still_reported(bundle: Path) -> None:
    for path in (bundle / "results").glob("validation.*.json"):
        result = json.loads(path.read_text())
        for key in ("places", "flips", "slices", "confusions"):
            result.pop(key, None)
        for row in result["rows"]:
            for key in ("ci_low", "ci_high", "p_value", "distinguishable"):
                row.pop(key, None)
        for row in result["per_class"]:
            for key in ("drop_low", "drop_high", "p_value", "p_adjusted", "distinguishable", "draws"):
                row.pop(key, None)
        path.write_text(json.dumps(result))
    assert "Where it was lost" not in write_report(bundle).read_text()


def test_no_path_of_this_machine(bundle: Path, tmp_path: Path) -> None:
    write_report(bundle)
    for path in (bundle / "report").iterdir():
        assert str(tmp_path) not in path.read_text(), path.name


def test_results_of_an_older_graph_are_left_out_and_named(bundle: Path) -> None:
    """As after a second export with another placement: the file differs, its results are not of it."""
    manifest = read_manifest(bundle)
    path = bundle / "model.int8.onnx"
    path.write_bytes(path.read_bytes() + b"\x72\x00")
    int8 = manifest.graphs["int8"].model_copy(update={"sha256": sha256_file(path)})
    write_manifest(bundle, manifest.model_copy(update={"graphs": {**manifest.graphs, "int8": int8}}))
    data = reported(bundle)
    assert [line["precision"] for line in data["targets"]] == ["fp32"] and data["timings"] == []
    assert data["outdated"] == ["validation.int8.onnxruntime.json", "benchmark.int8.onnxruntime.json"]
    for kind in ("html", "md"):
        assert "validation.int8.onnxruntime.json" in (bundle / "report" / f"report.{kind}").read_text()


def test_nothing_current_is_an_error_that_names_the_files(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    changed = {name: graph.model_copy(update={"sha256": "0" * 64}) for name, graph in manifest.graphs.items()}
    write_manifest(bundle, manifest.model_copy(update={"graphs": changed}))
    with pytest.raises(UserError, match=r"validation\.fp32\.onnxruntime\.json.* older graph"):
        write_report(bundle)
