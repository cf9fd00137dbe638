"""Trials of mixed graphs of a small network: what they measure, that they are kept, that Ray gives the same, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from clocks import Clock, by_int8
from smallnet import constant, small_bundle, small_model
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.cli.main import app
from segc.compress.quantize import quantize_bundle
from segc.core.errors import UserError
from segc.core.files import write_text
from segc.core.images import read_image, write_image
from segc.data.dataset import open_dataset
from segc.pipeline import trials as module
from segc.pipeline.attempts import Attempts, without_leftovers
from segc.pipeline.executor import InProcess, RayTasks, make_executor
from segc.pipeline.sensitivity import sensitivity
from segc.pipeline.trials import decibels, logits_graph
from segc.runtime.bundle import read_manifest, write_manifest
from segc.validate.evaluate import validate

MIXED = [{}, {"inner": "fp32"}, {"stem": "fp32", "down": "fp32"}]


def attempts_at(bundle: Path, work: Path, executor: InProcess | RayTasks | None = None, backend: str = "onnxruntime") -> Attempts:
    return Attempts(bundle, work, backend, executor or InProcess(), limit=None, runs=2, threads=1)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_a_drop_is_that_of_validate(labelled_bundle: Path, work: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(labelled_bundle, bundle)
    attempts = attempts_at(bundle, work)
    for precisions, accuracy in zip(MIXED, attempts.accuracy(MIXED, "scoring"), strict=True):
        manifest = quantize_bundle(bundle, precisions=precisions)
        assert (bundle / manifest.graphs["int8"].file).read_bytes() == attempts.graph(precisions).read_bytes()
        dataset = open_dataset(attempts.plan.root)
        result = validate(f"{bundle}@int8", dataset, against=f"{bundle}@fp32", backend="onnxruntime", output=tmp_path / "result.json")
        row = next(row for row in result["rows"] if row["metric"] == "drop mIoU")
        assert (accuracy.drop.value, accuracy.drop.low, accuracy.drop.high) == (row["value"], row["ci_low"], row["ci_high"])
    assert read_manifest(bundle).graphs["int8"].notes["precisions"] == MIXED[-1]


def test_a_graph_is_scored_as_it_will_be_written_whatever_the_limit(labelled_bundle: Path, work: Path, tmp_path: Path) -> None:
    """``down`` leaves fp16 on the third image only."""
    model = small_model()
    model.opset_import[0].version = 20
    for item in model.graph.initializer:
        if item.name in ("down_w", "down_b"):
            item.CopyFrom(constant(item.name, onnx.numpy_helper.to_array(item) * 65504 / 2 / 15))
    bundle = small_bundle(tmp_path / "bundle", model)
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"provenance": read_manifest(labelled_bundle).provenance}))
    calibrate(bundle, open_dataset(read_manifest(bundle).provenance["data"]["root"]).image_paths, threads=1)
    manifest = quantize_bundle(bundle, precisions={"down": "fp16"})
    attempts = Attempts(bundle, work, "onnxruntime", InProcess(), limit=2, runs=2, threads=1)
    assert attempts.graph({"down": "fp16"}).read_bytes() == (bundle / manifest.graphs["int8"].file).read_bytes()


def test_sqnr_is_that_of_the_logits(labelled_bundle: Path, work: Path) -> None:
    attempts = attempts_at(labelled_bundle, work)
    found = attempts.accuracy([{}], "scoring")[0]
    paths = (attempts.fp32, attempts.graph({}))
    for image, told in zip(attempts.images, found.sqnr_each, strict=True):
        full, small = (logits_of(path, read_image(image)) for path in paths)
        expected = 10 * np.log10(np.mean(full**2) / np.mean((full - small) ** 2))
        assert told == pytest.approx(expected, abs=0.1) and 5 < told < 60


def logits_of(path: Path, image: np.ndarray) -> np.ndarray:
    """Of the classifier, by a session of its own."""
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("classify"))
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(["classify"], {"images": image[None]})[0], np.float64)


def test_decibels() -> None:
    signal = np.array([3.0, 4.0])
    assert decibels(signal, signal * 1.1) == pytest.approx(20)
    assert decibels(signal, signal) == 200 and decibels(0 * signal, signal) == -200


def test_a_graph_that_decides_by_a_threshold_shows_no_logits(tmp_path: Path) -> None:
    from toy import DYNAMIC, save_graph

    assert logits_graph(onnx.load(save_graph(tmp_path / "toy.onnx", DYNAMIC))) is None
    model = onnx.load(tmp_path / "toy.onnx")
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["float"], ["aside"]))
    assert logits_graph(model) is None, "its class map is not that of the ArgMax"
    logits = onnx.load(save_graph(tmp_path / "logits.onnx", DYNAMIC.model_copy(update={"output": "logits"})))
    assert logits_graph(logits) is logits


def test_what_was_scored_is_kept(labelled_bundle: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = attempts_at(labelled_bundle, work).accuracy(MIXED[:2], "scoring")
    ran: list[bytes] = []
    real = module.run_trial
    monkeypatch.setattr(module, "run_trial", lambda graph, *rest: ran.append(graph) or real(graph, *rest))
    again = attempts_at(labelled_bundle, work)
    assert again.accuracy(MIXED, "scoring")[:2] == first and ran == [again.graph(MIXED[2]).read_bytes()]
    other_images = Attempts(labelled_bundle, work, "onnxruntime", InProcess(), limit=2, runs=2, threads=1)
    other_images.accuracy(MIXED[:1], "scoring")
    assert len(ran) == 3, "int8 and fp32 once more, on other images"
    half_written = next(work.glob("trials/*.json"))
    half_written.unlink()
    assert again.accuracy(MIXED, "scoring")[:2] == first and len(ran) == 4


def test_a_killed_run_keeps_every_trial_before(labelled_bundle: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(InProcess):
        def run(self, function, jobs, shared) -> Iterator:  # type: ignore[no-untyped-def]
            for index, found in super().run(function, jobs, shared):
                yield index, found
                raise KeyboardInterrupt

    killed = Killed()
    with pytest.raises(KeyboardInterrupt), without_leftovers(work, killed):
        attempts_at(labelled_bundle, work, killed).accuracy(MIXED, "scoring")
    assert len(list(work.glob("trials/*.json"))) == 1 and not (work / "graphs").exists()


def test_ray_gives_the_same_numbers(labelled_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = {}
    for executor in (InProcess(), RayTasks()):
        work = tmp_path / executor.name
        with without_leftovers(work, executor):
            found[executor.name] = attempts_at(labelled_bundle, work, executor).accuracy(MIXED, "scoring")
            if isinstance(executor, RayTasks):
                with pytest.raises(UserError, match=r"three.png does not exist") as caught:
                    list(executor.run(read_image, [("three.png",)], ()))
                assert caught.value.__cause__ is None
    assert found["ray"] == found["in-process"]
    names = {executor: {path.name for path in (tmp_path / executor / "trials").iterdir()} for executor in found}
    assert names["ray"] == names["in-process"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_sensitivity(labelled_bundle: Path, work: Path, backend: str, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    found = sensitivity(attempts_at(labelled_bundle, work, backend=backend))
    assert [record["block"] for record in found["blocks"]] == ["stem", "inner", "down"]
    assert [(record["only_int8"]["saved_ms"], record["only_float"]["cost_ms"]) for record in found["blocks"]] == [(2.0, 2.0)] * 3
    assert all(record["only_int8"]["sqnr_db"] > found["int8"]["sqnr_db"] for record in found["blocks"]), "one block alone is nearer to fp32"
    assert {row["metric"] for row in found["rows"]} == {"drop mIoU", "SQNR of the logits", "engine_p50"}
    assert len(found["rows"]) == 3 * 2 * 3
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_latencies_are_measured_beside_the_references_and_kept(labelled_bundle: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = attempts_at(labelled_bundle, work).timing(MIXED)
    assert all(len(timing.references) == 2 and 0 < timing.ms < 1000 for timing in first)
    monkeypatch.setattr("segc.pipeline.stopwatch.benchmark_many", None)
    assert attempts_at(labelled_bundle, work).timing(MIXED) == first


def test_two_at_once_do_not_share_a_folder(labelled_bundle: Path, work: Path) -> None:
    with without_leftovers(work, InProcess()):
        code, told = segc("sensitivity", str(labelled_bundle), "--work-dir", str(work), "--no-ray")
    assert code == 2 and f"another segc works in {work}" in told.replace("\n", "")
    with without_leftovers(work, InProcess()):
        pass


def segc(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_the_verb_writes_a_table_and_a_picture(labelled_bundle: Path, work: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    words = ["sensitivity", str(labelled_bundle), "--work-dir", str(work), "--runs", "2", "--threads", "1", "--no-ray", "--limit", "2"]
    code, told = segc(*words)
    assert code == 0 and "PASSED int8 loses" in told and "inner" in told and "2 images of small val" in told
    assert sorted(path.name for path in work.iterdir()) == [
        ".lock",
        "sensitivity.onnxruntime.json",
        "sensitivity.onnxruntime.svg",
        "trials",
    ]
    picture = (work / "sensitivity.onnxruntime.svg").read_text()
    assert picture.count("<rect") == 1 + 2 + 4 * 3 and "inner" in picture


def test_an_install_without_training_is_told_what_is_missing(labelled_bundle: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segc.pipeline.attempts", None)
    monkeypatch.delitem(sys.modules, "segc.pipeline.sensitivity")
    code, told = segc("sensitivity", str(labelled_bundle), "--work-dir", str(work))
    assert code == 2 and "trying precisions needs the Python package" in told and "pip install 'segc[train]'" in told


def test_the_verb_writes_before_it_lets_go_of_the_folder(
    labelled_bundle: Path, work: Path, clock: Callable[[Clock], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(by_int8(10.0, 2.0))

    def write(path: Path, text: str) -> None:
        with pytest.raises(UserError, match="another segc works"), without_leftovers(work, InProcess()):
            pass
        write_text(path, text)

    monkeypatch.setattr("segc.cli.sensitivity.write_text", write)
    words = ["sensitivity", str(labelled_bundle), "--work-dir", str(work), "--runs", "2", "--threads", "1", "--no-ray", "--limit", "2"]
    assert segc(*words)[0] == 0 and (work / "sensitivity.onnxruntime.svg").exists()


def test_what_does_not_go_together(labelled_bundle: Path, tmp_path: Path) -> None:
    bundle = str(labelled_bundle)
    for words, told in (
        (["--ray-address", "x:1", "--no-ray"], "--ray-address x:1 with --no-ray"),
        (["--weights", "a.pth"], "is a bundle, but --weights a.pth was given"),
        (["--backend", "torch"], "backend 'torch' does not run graphs here"),
    ):
        code, output = segc("sensitivity", bundle, "--work-dir", str(tmp_path / "w"), *words)
        assert code == 2 and told in output


def test_refusals(labelled_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(labelled_bundle, bundle)
    with pytest.raises(UserError, match=r"1 labelled image in .* an interval of a drop needs two or more"):
        Attempts(bundle, tmp_path / "w", "onnxruntime", InProcess(), limit=1, runs=1, threads=1)
    blank = tmp_path / "blank"
    shutil.copytree(attempts_at(bundle, tmp_path / "w").plan.root, blank)
    for path in (blank / "labels" / "val").iterdir():
        write_image(path, np.full((32, 48), 255, np.uint8))
    manifest = read_manifest(bundle)
    write_manifest(bundle, manifest.model_copy(update={"provenance": {"data": {"root": str(blank), "layout": "folder", "split": "val"}}}))
    with pytest.raises(UserError, match="every label is ignored"):
        attempts_at(bundle, tmp_path / "w").accuracy([{}], "scoring")
    (bundle / "calibration.json").unlink()
    with pytest.raises(UserError, match=f"segc calibrate {bundle}"):
        attempts_at(bundle, tmp_path / "w")


def test_closing_what_was_not_started_imports_no_ray() -> None:
    told = "import sys; from segc.pipeline.executor import RayTasks; RayTasks().close(); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout == "False\n"


def test_ray_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert make_executor(None, None).name == "in-process"
    with pytest.raises(UserError, match=r"pip install 'segc\[search\]'"):
        make_executor(True, None)
