"""The report: only results of the graphs that the bundle holds, and no path of this machine in what is passed on."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import DYNAMIC, make_bundle, make_set
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.data.dataset import open_dataset
from segc.runtime.benchmark import benchmark
from segc.runtime.bundle import Engine, Graph, Profile, read_manifest, write_manifest
from segc.validate.bootstrap import Bootstrap
from segc.validate.evaluate import validate
from segc.validate.pareto import pareto_chart
from segc.validate.reliability import reliability
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


def test_a_bundle_of_another_name_shows_its_worst_images(bundle: Path) -> None:
    """Its int8 graph was validated against its own fp32 graph, when the folder was named otherwise."""
    assert "data:image/" in write_report(bundle.rename(bundle.parent / "renamed")).read_text()


def test_precisions_of_engines_are_shown_while_their_graph_is_there(bundle: Path) -> None:
    shape, manifest = (1, 20, 30), read_manifest(bundle)
    engine = Engine(
        file="engines/rtx-1.7.1.116-sm86/int8.engine",
        sha256="0",
        precision="int8",
        graph_sha256=manifest.graphs["int8"].sha256,
        flavour="rtx",
        version="1.7.1.116",
        compute_capability="8.6",
        machine="x86_64 Linux",
        profile=Profile(min=shape, opt=shape, max=shape),
        command="tensorrt_rtx",
        notes={"layers": {"matrix": {"fp32": 1, "int8": 37}, "other": {"fp32": 36}}},
    )
    older = engine.model_copy(update={"graph_sha256": "0" * 64, "compute_capability": "8.9"})
    write_manifest(bundle, manifest.model_copy(update={"engines": [engine, older, engine.model_copy(update={"notes": {}})]}))
    rows = reported(bundle)["engines"]
    told = [(row["conditions"]["role"], row["conditions"]["computes_in"], row["value"]) for row in rows]
    assert told == [("matrix", "fp32", 1), ("matrix", "int8", 37), ("other", "fp32", 36)]
    line = "| int8, TensorRT-RTX 1.7.1.116, compute capability 8.6 | matrix | int8 | 37 |"
    written = (bundle / "report" / "report.md").read_text()
    assert line in written and "capability 8.9" not in written
    assert "<h2>Precision of the engines</h2>" in (bundle / "report" / "report.html").read_text()


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
        assert ("Windows that lost most" in page) is not same
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


def two_bundles(tmp_path: Path) -> list[Path]:
    """A full network's bundle, and one of a network that calls other pixels bright, validated on the same images."""
    dataset = open_dataset(make_set(tmp_path / "set", 6))
    folders = [make_bundle(tmp_path / name) for name in ("full", "pruned")]
    model = onnx.load(folders[1] / "model.onnx")
    next(each for each in model.graph.initializer if each.name == "half").float_data[0] = 150.0
    onnx.save(model, folders[1] / "model.onnx")
    for folder, name in zip(folders, ("full", "pruned"), strict=True):
        manifest = read_manifest(folder)
        graph = Graph(file="model.onnx", sha256=sha256_file(folder / "model.onnx"), opset=17, notes={"parameters": 2_500_000, "macs": 3e9})
        write_manifest(folder, manifest.model_copy(update={"name": name, "graphs": {"fp32": graph}}))
        validate(str(folder), dataset)
        benchmark(str(folder), runs=2, warmup=1)
    return folders


def test_a_chain_over_bundles_drops_from_its_first_step(tmp_path: Path) -> None:
    """The drop and its interval are those of a validation of the one against the other, though neither was run with the other."""
    full, pruned = two_bundles(tmp_path)
    data = json.loads(write_report(pruned, [full]).with_suffix(".json").read_text())
    steps = data["chain"]["steps"]
    assert [step["name"] for step in steps] == ["full@fp32", "pruned@fp32"]
    direct = validate(str(pruned), open_dataset(tmp_path / "set"), against=str(full), output=tmp_path / "direct.json")
    expected = next(row for row in direct["rows"] if row["metric"] == "drop mIoU")
    assert {key: steps[1]["row"][key] for key in ("value", "ci_low", "ci_high")} == {
        key: expected[key] for key in ("value", "ci_low", "ci_high")
    }
    assert steps[0]["drop"] is None and steps[1]["macs"] == 3e9 and steps[1]["engine_ms"] > 0
    for step, folder in zip(steps, (full, pruned), strict=True):
        for source in step["sources"]:
            assert (folder / source).is_file()
    page = (pruned / "report" / "report.html").read_text()
    assert "From the full network" in page and "2.50" in page and page.count('class="dot"') == 2


def test_a_step_on_other_images_has_no_drop(tmp_path: Path) -> None:
    full, pruned = two_bundles(tmp_path)
    validate(str(pruned), open_dataset(make_set(tmp_path / "other", 4)))
    data = json.loads(write_report(pruned, [full]).with_suffix(".json").read_text())
    assert data["chain"]["steps"][1]["drop"] is None


def test_thresholds_are_judged_and_end_the_command(bundle: Path) -> None:
    command = ["report", str(bundle), "--fail-if", "drop(mIoU) > 0.5", "--json"]
    passed = CliRunner().invoke(app, command)
    told = json.loads(passed.stdout)["data"]["thresholds"]
    assert passed.exit_code == 0 and told == [{"fails_if": "drop(mIoU) > 0.5", "measured": {"drop(mIoU)": 0.0}, "passed": True}]
    failed = CliRunner().invoke(app, [*command, "--fail-if", "mIoU < 100"])
    assert failed.exit_code == 1 and "mIoU < 100" in json.loads(failed.stdout)["summary"]
    page = (bundle / "report" / "report.html").read_text()
    assert page.count("<b>PASSED</b>") == 1 and page.count("<b>FAILED</b>") == 1 and "Signature" in page
    assert CliRunner().invoke(app, [*command, "--fail-if", "drop(mIoV) > 1"]).exit_code == 2


def test_calibration_of_the_probabilities_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", DYNAMIC.model_copy(update={"output": "logits"}))
    dataset = open_dataset(make_set(tmp_path / "set"))
    validate(str(folder), dataset)
    assert "ECE" not in write_report(folder).read_text()
    ece, surer = (row["value"] for row in reliability(str(folder), dataset)["rows"])
    assert reported(folder)["reliability"] == [{"precision": "fp32", "backend": "onnxruntime", "ece": ece, "surer": surer, "n": 3}]
    for kind, between in (("html", "</td><td>"), ("md", " | ")):
        assert f"{ece:.2f}{between}{surer:+.2f}" in (folder / "report" / f"report.{kind}").read_text()
    path = folder / "results" / "reliability.fp32.onnxruntime.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "graph_sha256": "0"}))
    data = reported(folder)
    assert data["reliability"] == [] and data["outdated"] == [path.name]


def test_two_reports_are_compared(bundle: Path, tmp_path: Path) -> None:
    first = write_report(bundle).with_suffix(".json")
    data = json.loads(first.read_text())
    data["chosen"]["mIoU"] += 1.5
    (tmp_path / "second.json").write_text(json.dumps(data))
    told = json.loads(CliRunner().invoke(app, ["report", "--compare", str(first), str(tmp_path / "second.json"), "--json"]).stdout)
    changes = {row["metric"]: row["change"] for row in told["data"]["rows"]}
    assert changes["mIoU"] == pytest.approx(1.5) and changes["bytes"] == 0 and changes["IoU dark"] == 0
    assert "+1.50 points, on the same images" in told["summary"]
    (tmp_path / "no.json").write_text("{}")
    assert CliRunner().invoke(app, ["report", "--compare", str(first), str(tmp_path / "no.json")]).exit_code == 2


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0, 100)), min_size=2, max_size=12))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[float, float]]) -> None:
    points = [{"name": str(index), "ms": ms, "miou": miou} for index, (ms, miou) in enumerate(pairs)]
    chart = pareto_chart(points)
    best = [float(dot["miou"]) for dot in chart["dots"] if dot["best"]]
    assert best == sorted(best) and max(miou for _, miou in pairs) in best
    fastest = min(pairs, key=lambda pair: (pair[0], -pair[1]))
    assert fastest in [(dot["ms"], dot["miou"]) for dot in chart["dots"] if dot["best"]]
    assert all(70 <= dot["x"] <= 980 and 36 <= dot["y"] <= 320 for dot in chart["dots"])
