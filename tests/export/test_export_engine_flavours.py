"""What the worker sets on TensorRT 10 and 11 (their bindings' recorded names stand in), what each flavour refuses, the trtexec lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import INSPECTOR, PLAN, make
from smallnet import small_bundle

from segc.calib.table import TABLE, CalibrationTable
from segc.calib.tensorrt_cache import write_cache
from segc.core.errors import UserError
from segc.core.files import sha256_file, write_json
from segc.export.engine import add
from segc.export.engine.command import command_line
from segc.export.engine.flavour import Flavour, check, examine, probe
from segc.export.engine.settings import EngineSettings
from segc.export.engine.worker import Done, Job, run
from segc.runtime.bundle import Profile, read_manifest, write_manifest
from segc.runtime.engines import Machine, pick_engine
from segc.runtime.gpu import Gpu
from segc.runtime.target import Target, content_hash
from segc.validate.sides import Side
from segc.validate.stored import current_results

TEN, ELEVEN, RTX = make("10.3.0.26"), make("11.4.1.9"), ("7.5", "8.6", "12.0")
ORIN = Gpu("Orin", "8.7", "12.6")
STATIC = Profile(min=(1, 64, 96), opt=(1, 64, 96), max=(1, 64, 96))


def a_flavour(trt: Any) -> Flavour:
    return Flavour(**{**examine(trt), "targets": tuple(examine(trt)["targets"])})


def build(trt: Any, folder: Path, events: list[dict[str, Any]] | None = None, **changes: Any) -> Any:
    job = Job("tensorrt", "model.onnx", str(folder / "made.engine"), changes.pop("settings", {}), **changes)
    return run(trt, job, (events if events is not None else []).append)


def test_flavours_are_told_apart_by_what_they_have() -> None:
    ten, eleven = a_flavour(TEN), a_flavour(ELEVEN)
    assert (ten.name, ten.calibrates, ten.hosts_plugins, ten.targets) == ("10", True, True, ())
    assert (eleven.name, eleven.calibrates, eleven.title) == ("11", False, "TensorRT 11.4.1.9")


def test_a_tensorrt_that_is_too_old_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "from types import SimpleNamespace as N\nBuilderFlag = N(FP16=1)\nINetworkDefinition = N()\n__version__ = '8.6.1'\n"
    (tmp_path / "tensorrt.py").write_text(names)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"^TensorRT 8\.6\.1 is too old"):
        probe("tensorrt")


@pytest.mark.parametrize("version", ["10.3.0.26", "11.4.1.9"])
def test_networks_are_strongly_typed_and_no_precision_flag_is_set(version: str, tmp_path: Path) -> None:
    trt, events = make(version), []
    done = build(trt, tmp_path, events, settings={"workspace_mib": 64, "refittable": True, "version_compatible": True})
    assert not done.errors and done.layers == 3 and done.layers_text == INSPECTOR
    assert (tmp_path / "made.engine").read_bytes() == PLAN and done.engine_bytes == len(PLAN)
    assert trt.calls["network_flags"] == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.calls["flags"] == ["VERSION_COMPATIBLE", "REFIT"] and trt.calls["memory"] == {"workspace": 64 << 20}
    assert events == [{"phase": "Building", "steps": 2}, {"step": 1, "of": "Building"}, {"end": "Building"}]


def test_profiles_compatibility_and_timing_cache(tmp_path: Path) -> None:
    trt, timing = make("10.13.3.9"), tmp_path / "timing.cache"
    shapes = {"min": [1, 64, 64, 3], "opt": [2, 64, 96, 3], "max": [4, 128, 128, 3]}
    for _ in range(2):
        build(trt, tmp_path, profile=shapes, timing_cache=str(timing), settings={"hardware_compatible": True, "optimization_level": 5})
    assert trt.calls["profiles"][0].shapes == {"images": ((1, 64, 64, 3), (2, 64, 96, 3), (4, 128, 128, 3))}
    assert trt.calls["config"].hardware_compatibility_level == "ampere+" and trt.calls["config"].builder_optimization_level == 5
    assert timing.read_bytes() == b"tt"


def test_dla_is_for_devices_that_have_it(tmp_path: Path) -> None:
    trt = make("10.3.0.26", cores=2)
    build(trt, tmp_path, settings={"dla_core": 1})
    config = trt.calls["config"]
    assert (config.default_device_type, config.DLA_core, trt.calls["flags"]) == ("dla", 1, ["GPU_FALLBACK"])
    with pytest.raises(ValueError, match="has 0 DLA cores"):
        build(make("11.4.1.9"), tmp_path, settings={"dla_core": 0})


def test_plugins_are_loaded_and_embedded(tmp_path: Path) -> None:
    trt = make("10.3.0.26", plugins=("good.so",))
    assert not build(trt, tmp_path, plugins=["good.so"]).errors
    assert trt.calls["config"].plugins_to_serialize == ["good.so"]
    assert "does not load" in build(trt, tmp_path, plugins=["bad.so"]).errors[0]


def test_implicit_int8_takes_the_ranges_of_a_cache(tmp_path: Path) -> None:
    trt, cache = make("10.3.0.26"), tmp_path / "calibration.cache"
    write_cache(cache, {"x": 1.27}, version=100300)
    build(trt, tmp_path, calibration_cache=str(cache))
    calibrator = trt.calls["config"].int8_calibrator
    assert calibrator.read_calibration_cache() == cache.read_bytes() and calibrator.get_batch(["images"]) is None
    assert trt.calls["flags"] == ["INT8", "FP16"] and trt.calls["network_flags"] == 0


def test_an_engine_of_implicit_int8_is_picked_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(add, "find_gpu", lambda: ORIN)
    int8 = json.loads(INSPECTOR.replace("Half", "Int8"))
    monkeypatch.setattr(add, "run_job", lambda job, title, timeout_s: _written(Path(job.engine), json.dumps(int8)))
    bundle = small_bundle(tmp_path / "b")
    write_json(bundle / TABLE, CalibrationTable(method="mse", percentile=None, seed=0, graph_sha256="0", contract_sha256="1", images=[],
                                                ranges={"stem": 1.0}).model_dump(mode="json"))  # fmt: skip
    built = add.add_engine(bundle, "int8", EngineSettings(implicit_int8=True), flavour=a_flavour(TEN)).engine
    machine, manifest = Machine("10", TEN.__version__, "Orin", "8.7", built.machine), read_manifest(bundle)
    assert pick_engine(bundle, manifest, "int8", "tensorrt", machine) == built
    found = content_hash(Target(bundle, "bundle", "int8"), "int8")
    assert found == built.graph_sha256 == manifest.graphs["fp32"].sha256 == sha256_file(bundle / "model.onnx")
    side = Side.of(f"{bundle}@int8", "tensorrt")
    assert (side.precision, side.sha256, side.engines) == ("int8", found, (built.sha256,))
    write_json(bundle / "results" / "benchmark.int8.tensorrt.json", {"precision": "int8", "backend": "tensorrt", "graph_sha256": found})
    assert len(current_results(bundle, manifest, "benchmark")[0]) == 1
    later = {"fp32": manifest.graphs["fp32"].model_copy(update={"sha256": "0" * 64}), "int8": manifest.graphs["fp32"]}
    write_manifest(bundle, manifest.model_copy(update={"graphs": later}))
    with pytest.raises(UserError, match="was built from another 'fp32' graph than the bundle holds now"):
        pick_engine(bundle, read_manifest(bundle), "int8", "tensorrt", machine)


def _written(engine: Path, layers: str) -> Done:
    engine.write_bytes(PLAN)
    return Done(layers=1, engine_bytes=len(PLAN), layers_text=layers)


@pytest.mark.parametrize(
    ("flavour", "settings", "gpu", "told"),
    [
        (ELEVEN, {"implicit_int8": True}, ORIN, "11.4.1.9 has no int8 calibrator"),
        (TEN, {}, None, "no GPU or driver here"),
        (TEN, {"compute_capability": "8.6"}, ORIN, r"\(Orin, 8\.7\), not for 8\.6"),
        (RTX, {}, None, "--compute-capability names one"),
        (RTX, {"compute_capability": "8.7"}, None, r"7\.5, 8\.6, 12\.0; 8\.7 is not one"),
        (RTX, {"compute_capability": "8.6", "dla_core": 0}, None, "no dla_core"),
        (RTX, {"compute_capability": "8.6", "version_compatible": True}, None, "no lean runtime"),
        (RTX, {"compute_capability": "8.6", "strip_weights": True}, None, "only on a machine with a GPU"),
    ],
)
def test_what_a_flavour_lacks_is_refused(flavour: Any, settings: dict[str, Any], gpu: Gpu | None, told: str) -> None:
    found = Flavour("rtx", "1.7.1.116", flavour, hosts_plugins=False) if flavour is RTX else a_flavour(flavour)
    with pytest.raises(UserError, match=told):
        check(found, EngineSettings(**settings), gpu)


def test_the_same_build_as_a_line_of_nvidias_tool() -> None:
    dynamic = Profile(min=(1, 64, 64), opt=(2, 64, 64), max=(4, 64, 64))
    settings = EngineSettings(workspace_mib=64, dla_core=0, refittable=True)
    line = command_line(a_flavour(TEN), settings, dynamic, "m.onnx", "e", [Path("p.so")])
    assert line.split() == [
        "trtexec", "--onnx=m.onnx", "--saveEngine=e", "--skipInference", "--stronglyTyped", "--useDLACore=0", "--allowGPUFallback",
        "--minShapes=images:1x64x64x3", "--optShapes=images:2x64x64x3", "--maxShapes=images:4x64x64x3", "--memPoolSize=workspace:64",
        "--refit", "--dynamicPlugins=p.so", "--setPluginsToSerialize=p.so", "--profilingVerbosity=detailed",
    ]  # fmt: skip
    rtx = command_line(Flavour("rtx", "1.7"), EngineSettings(compute_capability="12.0"), STATIC, "m.onnx", "e")
    assert rtx.startswith("tensorrt_rtx ") and "--computeCapabilities=120" in rtx and "Shapes" not in rtx and "stronglyTyped" not in rtx
    implicit = command_line(a_flavour(TEN), EngineSettings(implicit_int8=True), STATIC, "m.onnx", "e", calibration_cache="c")
    assert "--int8 --fp16 --calib=c" in implicit and "--stronglyTyped" not in implicit
    assert "--stronglyTyped" not in command_line(a_flavour(ELEVEN), EngineSettings(), STATIC, "m.onnx", "e")
