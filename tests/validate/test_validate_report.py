"""The report: only results of the graphs that the bundle holds, and no path of this machine in what is passed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import make_bundle, make_set

from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.data.dataset import open_dataset
from segc.runtime.benchmark import benchmark
from segc.runtime.bundle import Graph, read_manifest, write_manifest
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
