"""fp16 and int8-fp16 graphs of a bundle: equal to their source on both runtimes, legal for TensorRT, refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from smallnet import photos, small_bundle, small_model
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.cli.main import app
from segc.compress.half import halve_bundle
from segc.compress.quantize import quantize_bundle
from segc.core.errors import CheckFailed, UserError
from segc.export.engine import rtx
from segc.export.tensorrt_rules import check_qdq
from segc.runtime.benchmark import all_targets
from segc.runtime.bundle import graph_path, read_manifest
from segc.runtime.runner import open_runner
from segc.runtime.target import Target


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle", onnx.version_converter.convert_version(small_model(), 20))


def test_fp16(bundle: Path, images: list[Path]) -> None:
    graph = halve_bundle(bundle, "fp16", images=images).graphs["fp16"]
    assert set(graph.parity["by_backend"]) == {"onnxruntime", "openvino"} and graph.parity["pixel_agreement"] > 0.998
    assert graph.notes["float"] == "fp16" and len(graph.notes["kept_in_fp32"]) == 4
    path = graph_path(bundle, read_manifest(bundle), "fp16")
    assert path.stat().st_size < 0.7 * (bundle / "model.onnx").stat().st_size
    assert rtx.build(path, "8.6", timeout=120).layers


def test_int8_with_fp16_around_it(bundle: Path, images: list[Path]) -> None:
    calibrate(bundle, images, method="minmax", threads=1)
    quantize_bundle(bundle, images=images)
    graph = halve_bundle(bundle, "int8-fp16", images=images).graphs["int8-fp16"]
    assert graph.parity["conditions"] == {"against": "int8"} and graph.parity["pixel_agreement"] > 0.99
    assert graph.notes["quantized_nodes"] and graph.notes["float"] == "fp16"
    path = graph_path(bundle, read_manifest(bundle), "int8-fp16")
    assert check_qdq(onnx.load(path)) == []
    assert rtx.build(path, "8.6", timeout=120).layers


def test_bf16_in_opset_22(bundle: Path, images: list[Path]) -> None:
    """ONNX Runtime has no bf16 convolution for the CPU: the graph is compared in OpenVINO and built by TensorRT-RTX."""
    graph = halve_bundle(bundle, "bf16", images=images).graphs["bf16"]
    assert list(graph.parity["by_backend"]) == ["openvino"] and graph.parity["pixel_agreement"] > 0.97
    assert graph.opset == 22 and graph.notes["float"] == "bf16"
    path = graph_path(bundle, read_manifest(bundle), "bf16")
    kinds = {item.data_type for item in onnx.load(path).graph.initializer if item.name.endswith("_w_bf16")}
    assert kinds == {onnx.TensorProto.BFLOAT16}
    assert rtx.build(path, "8.6", timeout=120).layers
    assert (Target(bundle, "bundle", "bf16"), "onnxruntime") not in all_targets(bundle)
    assert (Target(bundle, "bundle", "bf16"), "openvino") in all_targets(bundle)
    with pytest.raises(UserError, match=r"no convolution in bf16 for the CPU.*--backend openvino"):
        open_runner(f"{bundle}@bf16")


def test_bf16_is_refused_where_it_cannot_be_made_or_checked(
    bundle: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.functions.add(name="SelectiveScan", domain="segc")
    with pytest.raises(UserError, match=r"cannot raise a graph with SelectiveScan to opset 22.*fp16"):
        halve_bundle(small_bundle(tmp_path / "scan", model), "bf16", images=images)
    monkeypatch.setattr("segc.compress.half.backends_for", lambda precision: [])
    with pytest.raises(UserError, match=r"no backend that is installed here runs this precision.*pip install openvino"):
        halve_bundle(bundle, "bf16", images=images)
    assert not (bundle / "model.bf16.onnx").exists()


def test_int8_fp16_is_made_of_the_int8_graph_that_is_there(bundle: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("quantized again")

    calibrate(bundle, images, method="minmax", threads=1)
    quantize_bundle(bundle, images=images)
    words = ["export", str(bundle), "--precision", "int8-fp16", "--images", str(images[0].parent)]
    monkeypatch.setattr("segc.compress.quantize.quantize_bundle", refuse)
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "quantized again" in CliRunner().invoke(app, [*words, "--bias-correction"]).stderr
    calibrate(bundle, images, method="mse", threads=1)
    assert "quantized again" in CliRunner().invoke(app, words).stderr


def test_the_command_line(bundle: Path, images: list[Path]) -> None:
    folder = str(images[0].parent)
    done = CliRunner().invoke(app, ["export", str(bundle), "--precision", "fp16", "--images", folder])
    assert done.exit_code == 0 and "4 nodes kept in fp32" in " ".join(done.stdout.split())
    lacking = CliRunner().invoke(app, ["export", str(bundle), "--precision", "int8-fp16", "--images", folder])
    assert lacking.exit_code == 2 and "calibration table" in lacking.stderr


def test_mistakes_are_named(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(UserError, match=r"unknown precision 'fp61'.*fp16"):
        halve_bundle(bundle, "fp61", images=images)
    with pytest.raises(UserError, match=r"no node 'mixx'.*mix"):
        halve_bundle(bundle, "fp16", keep=["mixx"], images=images)
    with pytest.raises(UserError, match="no 'int8' graph"):
        halve_bundle(bundle, "int8-fp16", images=images)
    with pytest.raises(CheckFailed, match=r"110 % are needed. Nothing was written"):
        halve_bundle(bundle, "fp16", images=images, least_agreement=1.1)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    old = small_bundle(tmp_path / "old")
    calibrate(old, images, method="minmax", threads=1)
    quantize_bundle(old, images=images)
    with pytest.raises(UserError, match=r"opset 17 has fp32 scales only.*opset 19"):
        halve_bundle(old, "int8-fp16", images=images)
