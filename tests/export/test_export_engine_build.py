"""`segc export --engine` as a user gives it: a real TensorRT-RTX engine in a bundle, kept for the next time, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from smallnet import HEIGHT, WIDTH, small_bundle, small_model
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.contract import Contract
from segc.core.errors import CheckFailed, UserError
from segc.export.engine import add, faults, rtx
from segc.export.engine.flavour import Flavour
from segc.export.engine.form import choose_form, without_bodies
from segc.export.engine.settings import EngineSettings, parse_settings, profile_of
from segc.export.engine.worker import Job
from segc.runtime.bundle import engine_path, read_manifest

needs_rtx = pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")
TARGET = ["--flavour", "rtx", "--compute-capability", "8.6"]


def segc(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path / "cache"))
    return small_bundle(tmp_path / "b")


@needs_rtx
def test_an_engine_is_built_recorded_and_kept(bundle: Path) -> None:
    first = segc("export", bundle, "--engine", "fp32", *TARGET, "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)["data"]
    (entry,) = read_manifest(bundle).engines
    path = engine_path(bundle, entry)
    assert path.stat().st_size == entry.notes["engine_bytes"] > 10_000
    assert (entry.flavour, entry.compute_capability, entry.gpu, entry.precision) == ("rtx", "8.6", None, "fp32")
    assert entry.graph_sha256 == read_manifest(bundle).graphs["fp32"].sha256 and entry.profile.opt == (1, HEIGHT, WIDTH)
    assert entry.command.startswith("tensorrt_rtx --onnx=model.onnx") and "--computeCapabilities=86" in entry.command
    assert told["proof"]["layers"]["matrix"]["fp32"] >= 5 and "standard operators only" in told["form"]
    listed = json.loads(path.with_suffix(".layers.json").read_text())
    assert listed["layers"] == told["proof"]["layers"] and listed["all"][0]["inputs"][0]["dtype"] == "uint8"
    again = json.loads(segc("export", bundle, "--engine", "fp32", *TARGET, "--json").stdout)["data"]
    assert again["from_cache"] and not told["from_cache"] and len(read_manifest(bundle).engines) == 1
    other = json.loads(segc("export", bundle, "--engine", "fp32", *TARGET, "--engine-option", "timeout_s=60", "--json").stdout)["data"]
    assert other["from_cache"] and other["engine"]["settings"]["timeout_s"] == 60
    assert not json.loads(segc("export", bundle, "--engine", "fp32", *TARGET, "--rebuild", "--json").stdout)["data"]["from_cache"]


@needs_rtx
def test_another_target_is_another_engine(bundle: Path) -> None:
    add.add_engine(bundle, "fp32", EngineSettings(compute_capability="8.6"))
    other = add.add_engine(bundle, "fp32", EngineSettings(compute_capability="8.9"))
    assert not other.from_cache and [item.compute_capability for item in read_manifest(bundle).engines] == ["8.6", "8.9"]


@needs_rtx
def test_fp32_compute_under_the_name_of_fp16_is_a_failure(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    wrong = manifest.model_copy(update={"graphs": {"fp16": manifest.graphs["fp32"]}})
    add.write_manifest(bundle, wrong)
    with pytest.raises(CheckFailed, match="100 % of its matrix work in fp32"):
        add.add_engine(bundle, "fp16", EngineSettings(compute_capability="8.6"))
    assert not read_manifest(bundle).engines and not (bundle / "engines").exists()


@needs_rtx
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "bf16", "--flavour", "rtx", "--compute-capability", "7.5"], "have no bf16"),
        (["--engine", "fp8", *TARGET], "8.9 or later"),
        (["--engine", "fp32", "--flavour", "rtx", "--compute-capability", "8.7"], "8.7 is not one of them"),
        (["--engine", "fp32", "--flavour", "rtx", "--compute-capability", "orin"], "compute_capability"),
        (["--engine", "fp32", "--flavour", "11"], "needs the Python package 'tensorrt'"),
        (["--engine", "fp32", *TARGET, "--engine-option", "worksapce_mib=1"], "Did you mean 'workspace_mib'?"),
        (["--engine", "fp32", *TARGET, "--engine-option", "workspace_mib=-1"], "workspace_mib"),
        (["--engine", "fp32", *TARGET, "--engine-option", "workspace_mib"], "is not KEY=VALUE"),
        (["--engine", "fp32", *TARGET, "--engine-option", "max=4x512x512"], "has batch 4, which the graph does not take"),
        (["--engine", "fp32", *TARGET, "--engine-option", "implicit_int8=true"], "implicit_int8"),
        (["--engine", "fp32", *TARGET, "--precision", "int8"], "is built from the fp32 graph"),
        (["--engine", "int8", *TARGET], "int8 needs a calibration table"),
        (["--precision", "int8", "--plugins", "off"], "--plugins is for an engine"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_sentence(bundle: Path, words: list[str], told: str) -> None:
    done = segc("export", bundle, *words)
    assert done.exit_code == 2 and told in " ".join(done.output.split()), done.output


@needs_rtx
def test_out_of_workspace_says_what_is_asked_for() -> None:
    error = faults.explain(
        ["Error Code 2: OutOfMemory (Requested size was 12207224 bytes.)"],
        "TensorRT-RTX",
        "m.onnx",
        Job("", "m.onnx", "", {"workspace_mib": 1}),
    )
    assert isinstance(error, UserError) and "workspace_mib is 1 (a layer asks for 11.6 MiB)" in str(error)


@pytest.mark.parametrize(
    ("message", "kind", "told"),
    [
        ("CUDA initialization failure with error: 35", UserError, "newer NVIDIA driver"),
        ("Target GPU SM 70 is not supported by this TensorRT release.", UserError, "does not support this GPU"),
        ("ValueError: dla_core 0 was asked for, and this device has 0 DLA cores", UserError, "Leave dla_core out"),
        ("the plugin library does not load: cannot open", UserError, "segc plugins build"),
        ("Conv conv1: something else", CheckFailed, "refuses m.onnx with 1 errors: Conv conv1"),
    ],
)
def test_what_the_library_says_becomes_a_sentence(message: str, kind: type[Exception], told: str) -> None:
    error = faults.explain([message], "TensorRT 10.3.0.26", "m.onnx", Job("tensorrt", "m.onnx", "", {}, plugins=["p.so"]))
    assert isinstance(error, kind) and told in str(error)


def contract(**axes: int | None) -> Contract:
    given = {"batch": None, "height": None, "width": None, **axes}
    return Contract(classes=["a"], palette=[(0, 0, 0)], mean=(0, 0, 0), std=(1, 1, 1), **given)  # type: ignore[arg-type]


def test_a_profile_comes_from_the_contract_or_the_options() -> None:
    settings = parse_settings(["min=1x64x64", "opt=2x64x128", "max=4x128x256"])
    assert profile_of(contract(), settings).max == (4, 128, 256)
    fixed = profile_of(contract(batch=1, height=64, width=96), EngineSettings())
    assert fixed.min == fixed.opt == fixed.max == (1, 64, 96)
    assert profile_of(contract(), parse_settings(["opt=1x64x64"])).min == (1, 64, 64)
    for options, told in (
        (["opt=1x64x64", "max=1x32x64"], "height is min 64, opt 64, max 32"),
        ([], "batch and height and width are dynamic"),
    ):
        with pytest.raises(UserError, match=told):
            profile_of(contract(), parse_settings(options))


def test_asymmetric_pairs_are_refused_before_the_build(bundle: Path) -> None:
    path = bundle / "model.onnx"
    model = onnx.load(path)
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.INT8, [], [3])
    model.graph.initializer.extend([onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.1]), zero])
    pair = [onnx.helper.make_node("QuantizeLinear", ["scaled", "s", "z"], ["q"], "the_q"),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], "the_dq")]  # fmt: skip
    position = next(index for index, node in enumerate(model.graph.node) if node.name == "stem")
    model.graph.node[position].input[0] = "dq"
    for node in reversed(pair):
        model.graph.node.insert(position, node)
    with pytest.raises(UserError, match=r"the_q: its zero point is 3, not 0"):
        add._check_pairs(model, path)


def test_plugins_are_chosen_and_the_choice_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path))
    model = small_model()
    rtx_flavour, ten = Flavour("rtx", "1.7.1", ("8.6",), hosts_plugins=False), Flavour("10", "10.3.0")
    assert choose_form(model, "auto", ten, "8.7").reason.startswith("plugins are not needed")
    model.graph.node.append(onnx.helper.make_node("SelectiveScan", ["a"], ["b"], domain="segc"))
    function = onnx.helper.make_function("segc", "SelectiveScan", ["a"], ["b"], [onnx.helper.make_node("Relu", ["a"], ["b"])],
                                         [onnx.helper.make_opsetid("", 18)])  # fmt: skip
    model.functions.append(function)
    assert not without_bodies(model).functions and model.functions
    assert "no plugin layers, 1 SelectiveScan" in choose_form(model, "auto", rtx_flavour, "8.6").reason
    assert "no library fits" in choose_form(model, "auto", ten, "8.7").reason
    for flavour, told in ((rtx_flavour, "no plugin layers"), (ten, "no plugin library was built")):
        with pytest.raises(UserError, match=told):
            choose_form(model, "on", flavour, "8.7")


@needs_rtx
def test_interrupt_leaves_nothing_half_written(bundle: Path) -> None:
    command = [sys.executable, "-m", "segc.cli.main", "export", str(bundle), "--engine", "fp32", *TARGET]
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True)
    end = time.monotonic() + 30
    while not (worker := _children(process.pid, "segc.export.engine.worker")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130 and "nothing is half-written" in process.communicate()[1]
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert worker
    while _alive(worker[0]):
        assert time.monotonic() < end + 30, "the worker goes on"
        time.sleep(0.05)


def _children(parent: int, word: str) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text() if Path(f"/proc/{parent}").exists() else ""
    return [pid for pid in map(int, text.split()) if word in Path(f"/proc/{pid}/cmdline").read_text()]


def _alive(pid: int) -> bool:
    """Neither gone nor waiting to be reaped."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
