"""Bias correction against a direct comparison of the two graphs' outputs; where the bias lies; which images it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, helper
from smallnet import CONTRACT, HEIGHT, WIDTH, constant, photos, small_bundle, small_model
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.calib.select import images_in
from segc.calib.table import read_table
from segc.cli.main import app
from segc.compress.bias import REASON_NO_BIAS, REASON_SCALED, correct_biases, output_errors
from segc.compress.placement import place
from segc.compress.quantize import quantize_bundle, quantize_graph
from segc.core.errors import UserError
from segc.core.images import read_image
from segc.runtime.bundle import read_manifest

node = helper.make_node


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos(tmp_path_factory.mktemp("photos"))


def one_layer(layer: list[NodeProto], constants: dict[str, tuple[int, ...]], opset: int = 20) -> ModelProto:
    """An image of pixels / 255 as a map "x", or as tokens "t", through one layer to "out", and a last product that stays in float."""
    random = np.random.default_rng(0)
    maps = layer[0].op_type == "Conv"
    last = node("Conv" if maps else "MatMul", ["out", "last_w"], ["y"], "last")
    nodes = [
        node("Cast", ["images"], ["float"], "cast", to=1),
        node("Div", ["float", "most"], ["unit"], "unit"),
        node("Transpose", ["unit"], ["x"], "map", perm=[0, 3, 1, 2]),
        node("Reshape", ["unit", "rows"], ["t"], "tokens"),
        *layer,
        last,
    ]
    sizes = [constant("most", 255.0), constant("rows", [HEIGHT * WIDTH, 3], np.int64)]
    drawn = [constant(name, random.normal(size=shape)) for name, shape in constants.items()]
    drawn.append(constant("last_w", random.normal(size=(2, 5, 1, 1) if maps else (5, 2))))
    image, output = helper.make_tensor_value_info("images", 2, [1, HEIGHT, WIDTH, 3]), helper.make_tensor_value_info("y", 1, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [output], [*sizes, *drawn]), opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )
    return onnx.shape_inference.infer_shapes(model)


def int8(model: ModelProto) -> ModelProto:
    names = {name for each in model.graph.node for name in each.output}
    return quantize_graph(model, dict.fromkeys(names, 3.0), place(model))


def mean_output(model: ModelProto, images: list[Path], name: str = "out") -> np.ndarray:
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run([name], {"images": read_image(path)[None]})[0] for path in images]
    return np.mean([value.mean((0, 2, 3)) if value.ndim == 4 else value.mean(0) for value in found], axis=0)


LAYERS = {
    "Conv with bias": ([node("Conv", ["x", "w", "b"], ["out"], "layer")], {"w": (5, 3, 3, 3), "b": (5,)}),
    "Conv without": ([node("Conv", ["x", "w"], ["out"], "layer")], {"w": (5, 3, 3, 3)}),
    "Gemm": ([node("Gemm", ["t", "w", "b"], ["out"], "layer", transB=1)], {"w": (5, 3), "b": (5,)}),
}


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_the_mean_output_is_that_of_fp32(images: list[Path], name: str, opset: int) -> None:
    model = one_layer(*LAYERS[name], opset=opset)
    rough = int8(model)
    expected = mean_output(model, images)
    correction = correct_biases(model, rough, images, CONTRACT, 1)
    assert list(correction.shifts) == ["layer"] and correction.skipped == {}
    off = np.abs(mean_output(rough, images) - expected).max()
    assert correction.shifts["layer"] > 0 and np.abs(mean_output(correction.model, images) - expected).max() < 0.02 * off


def test_layers_do_not_take_back_each_others_errors(images: list[Path], tmp_path: Path) -> None:
    """Each layer's error is its own: after the correction none is left, in a chain too."""
    model = small_model()
    ranges = read_table(calibrate(small_bundle(tmp_path / "bundle"), images, threads=1)).ranges
    rough = quantize_graph(model, ranges, place(model))
    correction = correct_biases(model, rough, images, CONTRACT, 1)
    left = output_errors(model, correction.model, images, CONTRACT, 1)
    assert set(left) == set(correction.shifts) == {"stem", "inner", "down"}
    assert all(np.abs(error).max() < 1e-3 * correction.shifts[name] for name, error in left.items())


def test_layers_without_a_bias_are_told(images: list[Path]) -> None:
    scaled = one_layer([node("Gemm", ["t", "w", "b"], ["out"], "layer", beta=0.5, transB=1)], {"w": (5, 3), "b": (5,)})
    bare = one_layer([node("MatMul", ["t", "w"], ["out"], "layer")], {"w": (3, 5)})
    np.testing.assert_allclose(mean_output(int8(scaled), images), mean_output(scaled, images), atol=0.02)
    for model, reason in ((scaled, REASON_SCALED), (bare, REASON_NO_BIAS)):
        correction = correct_biases(model, int8(model), images, CONTRACT, 1)
        assert correction.skipped == {"layer": reason} and correction.shifts == {}


def test_the_addition_behind_a_product_takes_the_correction(images: list[Path]) -> None:
    model = one_layer(
        [node("MatMul", ["t", "w"], ["product"], "layer"), node("Add", ["product", "b"], ["out"], "add")], {"w": (3, 5), "b": (5,)}
    )
    rough = quantize_graph(model, dict.fromkeys(("t", "product", "out"), 3.0), place(model, keep=frozenset({"add"})))
    expected = mean_output(model, images)
    correction = correct_biases(model, rough, images, CONTRACT, 1)
    assert list(correction.shifts) == ["layer"]
    off = np.abs(mean_output(rough, images) - expected).max()
    assert np.abs(mean_output(correction.model, images) - expected).max() < 0.02 * off


def test_of_a_bundle(images: list[Path], tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    calibrate(bundle, images, equalize=True, threads=1)
    quantize_bundle(bundle, images=images)
    plain = (bundle / "model.int8.onnx").read_bytes()
    with pytest.raises(UserError, match="names no dataset"):
        quantize_bundle(bundle, bias_correction=True, images=images)
    arguments = ["export", str(bundle), "--precision", "int8", "--images", str(images[0].parent), "--json"]
    where = ["--calibration-images", str(images[0].parent)]
    assert CliRunner().invoke(app, [*arguments, *where]).exit_code == 2
    done = CliRunner().invoke(app, [*arguments, *where, "--bias-correction"])
    notes = json.loads(done.stdout)["data"]["graph"]["notes"]
    assert done.exit_code == 0 and notes == read_manifest(bundle).graphs["int8"].notes
    assert notes["bias_correction"]["images"] == 3 and set(notes["bias_correction"]["shifts_rms"]) == {"stem", "inner", "down"}
    assert notes["calibration"]["equalize"] and notes["calibration"]["rescaled_tensors"] == 1
    assert (bundle / "model.int8.onnx").read_bytes() != plain


def test_images_of_one_name_in_two_folders_are_all_found(images: list[Path], tmp_path: Path) -> None:
    paths = [tmp_path / "photos" / folder / "0001.png" for folder in ("a", "b")]
    for source, path in zip(images, paths, strict=False):
        path.parent.mkdir(parents=True)
        shutil.copyfile(source, path)
    table = read_table(calibrate(small_bundle(tmp_path / "bundle"), paths, threads=1))
    assert table.find_images(images_in(tmp_path / "photos")) == paths


def test_images_are_found_by_content(images: list[Path], tmp_path: Path) -> None:
    table = read_table(calibrate(small_bundle(tmp_path / "bundle"), images, threads=1))
    shutil.copytree(images[0].parent, tmp_path / "a")
    assert table.find_images([*sorted((tmp_path / "a").iterdir()), tmp_path / "more.png"]) == sorted((tmp_path / "a").iterdir())
    (tmp_path / "a" / "coffee.png").write_bytes(images[0].read_bytes())
    with pytest.raises(UserError, match=r"1 of 3 calibration images \(coffee\.png\).*--calibration-images"):
        table.find_images(sorted((tmp_path / "a").iterdir()))
    with pytest.raises(UserError, match="calibration images are not among"):
        table.model_copy(update={"images": []}).find_images(images)
