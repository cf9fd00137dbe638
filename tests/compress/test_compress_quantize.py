"""The int8 graph of a small network, calibrated on photographs: its form, its results in two runtimes, the refusals."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper
from smallnet import CONTRACT, constant, photos, small_bundle, small_model

import segc.compress.quantize as module
from segc.calib.calibrate import calibrate
from segc.calib.table import read_table, write_table
from segc.compress.placement import Placement, place
from segc.compress.qdq import insert_qdq, share_ranges
from segc.compress.quantize import quantize_bundle, quantize_graph
from segc.core.contract import CONTRACT_KEY
from segc.core.errors import CheckFailed, UserError
from segc.core.images import read_image
from segc.export.tensorrt_rules import check_qdq
from segc.runtime.backends.onnx_runtime import DISABLED_OPTIMIZERS
from segc.runtime.bundle import graph_path, read_manifest
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter

PLACED = ["stem", "inner", "residual", "down"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Path:
    bundle = small_bundle(tmp_path_factory.mktemp("calibrated") / "bundle")
    calibrate(bundle, images, method="minmax", threads=1)
    return bundle


@pytest.fixture(scope="module")
def quantized(calibrated: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(calibrated, bundle)
    quantize_bundle(bundle, images=images)
    return bundle


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path) -> Path:
    shutil.copytree(calibrated, tmp_path / "bundle")
    return tmp_path / "bundle"


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_form_of_the_graph(quantized: Path) -> None:
    model = onnx.load(quantized / "model.int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert check_qdq(model) == []
    assert {prop.key: prop.value for prop in model.metadata_props}[CONTRACT_KEY] == CONTRACT.model_dump_json()
    assert {item.domain for item in model.opset_import} == {""}
    values, ranges = constants(model), read_table(quantized / "calibration.json").ranges
    makers = {name: node for node in model.graph.node for name in node.output}
    original = constants(onnx.load(quantized / "model.onnx"))
    for name in ("stem", "inner", "down"):
        node = next(node for node in model.graph.node if node.name == name)
        weight = makers[node.input[1]]
        assert weight.op_type == "DequantizeLinear" and makers[node.input[0]].op_type == "DequantizeLinear"
        stored, scale = values[weight.input[0]], values[weight.input[1]]
        assert stored.dtype == np.int8 and scale.shape == (8,) and not values[weight.input[2]].any()
        np.testing.assert_allclose(scale, np.abs(original[f"{name}_w"]).max((1, 2, 3)) / 127, rtol=0.01)
        np.testing.assert_allclose(stored * scale[:, None, None, None], original[f"{name}_w"], atol=float(scale.max()))
        assert values[node.input[2]].dtype == np.float32
    pair = makers[next(node for node in model.graph.node if node.name == "stem").input[0]]
    assert values[pair.input[1]] == pytest.approx(ranges["scaled"] / 127, rel=0.01)


def test_a_relu_and_what_it_reads_share_a_range(calibrated: Path) -> None:
    """The values below zero are lost anyway: they must not coarsen the others."""
    model = small_model()
    nodes = list(model.graph.node)
    at = [node.name for node in nodes].index("down")
    model.graph.node.insert(at, helper.make_node("Relu", ["residual"], ["positive"], "rectify"))
    next(node for node in model.graph.node if node.name == "down").input[0] = "positive"
    ranges = dict.fromkeys(read_table(calibrated / "calibration.json").ranges, 8.0) | {"positive": 2.0}
    shared = share_ranges(model, place(model), ranges)
    assert shared["positive"] == 2.0 and shared["residual"] == 8.0, "residual is read by the Concat too"
    next(node for node in model.graph.node if node.name == "joined").input[0] = "positive"
    assert share_ranges(model, place(model), ranges)["residual"] == 2.0


@pytest.mark.parametrize(("wide", "shared"), [(3.0, True), (5.0, False)])
def test_a_range_is_not_widened_by_much(wide: float, shared: bool) -> None:
    """A map joined with one of a hundred times its range would keep no bits, and so would all its other readers."""
    names = ("a", "b", "joined")
    nodes = [helper.make_node("Conv", ["x", "w"], [name], name) for name in names[:2]]
    graph = helper.make_graph([*nodes, helper.make_node("Concat", ["a", "b"], ["joined"], "joined")], "g", [], [])
    found = share_ranges(helper.make_model(graph), Placement(list(names)), {"a": 1.0, "b": wide, "joined": wide})
    assert found == {"a": wide if shared else 1.0, "b": wide, "joined": wide}


def test_manifest_says_what_was_done(quantized: Path) -> None:
    manifest = read_manifest(quantized)
    graph_path(quantized, manifest, "int8")
    notes = manifest.graphs["int8"].notes
    assert notes["quantized_nodes"] == len(PLACED) and set(notes["kept_in_float"]) == {"up", "joined", "mix", "classify", "argmax"}
    assert notes["calibration"]["method"] == "minmax" and notes["calibration"]["images"] == 3
    assert manifest.graphs["int8"].parity["n_images"] == 3 and manifest.graphs["int8"].parity["pixel_agreement"] > 0.95


@pytest.mark.parametrize(
    ("backend", "least"),
    [
        ("onnxruntime", 0.95),
        ("openvino", 0.95),
    ],
)
def test_class_maps_agree_with_fp32(quantized: Path, images: list[Path], backend: str, least: float) -> None:
    fp32, int8 = (Segmenter(open_runner(f"{quantized}@{precision}", backend, 1)) for precision in ("fp32", "int8"))
    same, seen = [], set()
    for path in images:
        expected = fp32.class_map(read_image(path))
        same.append((int8.class_map(read_image(path)) == expected).mean())
        seen |= set(np.unique(expected))
    assert np.mean(same) > least and len(seen) > 1


def optimised(model: ModelProto, folder: Path) -> Counter[str]:
    """Ops of the graph that ONNX Runtime really runs in our runner."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    disabled = DISABLED_OPTIMIZERS
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_onnx_runtime_fuses_a_chain_of_placed_convolutions(calibrated: Path, tmp_path: Path) -> None:
    model = small_model()
    for node in [node for node in model.graph.node if node.name in ("residual", "down", "up", "joined", "mix")]:
        model.graph.node.remove(node)
    next(node for node in model.graph.node if node.name == "classify").input[0] = "inner"
    placement = place(model)
    assert placement.quantized == ["stem", "inner"]
    ops = optimised(quantize_graph(model, read_table(calibrated / "calibration.json").ranges, placement), tmp_path)
    assert ops["QLinearConv"] == 2 and ops["Conv"] + ops["FusedConv"] == 1


def test_onnx_runtime_leaves_a_convolution_with_two_readers_in_float(quantized: Path, tmp_path: Path) -> None:
    """``stem``: to be fused it must have one QuantizeLinear, to become uint8 each pair one reader. ``inner`` and ``down`` are fused."""
    ops = optimised(onnx.load(quantized / "model.int8.onnx"), tmp_path)
    assert ops["QLinearConv"] == 2 and ops["Conv"] + ops["FusedConv"] == 3


def test_what_fits_into_fp16_is_asked_of_the_rescaled_graph(images: list[Path], tmp_path: Path) -> None:
    """Before it is rescaled, ``mix`` does not reach 20; after, a million."""
    model = small_model()
    model.opset_import[0].version = 20
    bundle = small_bundle(tmp_path / "rescaled", model)
    calibrate(bundle, images, threads=1)
    table = read_table(bundle / "calibration.json")
    write_table(bundle / "calibration.json", table.model_copy(update={"rescaled": {"mix": [1e-5] * 8}}))
    manifest = quantize_bundle(bundle, precisions={"mix": "fp16"}, images=images)
    written = onnx.shape_inference.infer_shapes(onnx.load(bundle / "model.int8.onnx"))
    types = {item.name: item.type.tensor_type.elem_type for item in written.graph.value_info}
    assert types["mix"] == onnx.TensorProto.FLOAT and manifest.graphs["int8"].parity["pixel_agreement"] > 0.95


def test_refusals_leave_the_bundle_as_it_was(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    before = files(bundle)
    with pytest.raises(UserError, match=r"no node 'inne'.*Did you mean 'inner'"):
        quantize_bundle(bundle, keep=["inne"], images=images)
    with pytest.raises(UserError, match=r"none\.json does not exist.*segc calibrate"):
        quantize_bundle(bundle, table=tmp_path / "none.json", images=images)
    other = small_bundle(tmp_path / "other", small_model(seed=1))
    with pytest.raises(UserError, match="another graph"):
        quantize_bundle(bundle, table=calibrate(other, images), images=images)
    table = read_table(bundle / "calibration.json")
    write_table(tmp_path / "part.json", table.model_copy(update={"ranges": {k: v for k, v in table.ranges.items() if k != "inner"}}))
    with pytest.raises(UserError, match=r"no range for 1 tensors \(inner\)"):
        quantize_bundle(bundle, table=tmp_path / "part.json", images=images)
    with pytest.raises(UserError, match="nothing is left to quantize"):
        quantize_bundle(bundle, keep=["stem", "inner", "down", "mix"], images=images)
    assert files(bundle) == before


def test_a_graph_that_disagrees_is_refused(bundle: Path, images: list[Path], tmp_path: Path) -> None:
    before = files(bundle)
    table = read_table(bundle / "calibration.json")
    write_table(tmp_path / "bad.json", table.model_copy(update={"ranges": {name: amax / 500 for name, amax in table.ranges.items()}}))
    with pytest.raises(CheckFailed, match=r"on \d+\.\d\d % of the pixels of 3 images; 90 % are needed"):
        quantize_bundle(bundle, table=tmp_path / "bad.json", images=images)
    assert files(bundle) == before


def test_a_bundle_that_cannot_be_written(bundle: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = files(bundle)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"model\.int8\.onnx: the file system is read-only"):
        quantize_bundle(bundle, images=images)
    assert files(bundle) == before


def test_rules_are_enforced(monkeypatch: pytest.MonkeyPatch, calibrated: Path) -> None:
    model = small_model()
    ranges = read_table(calibrated / "calibration.json").ranges

    def asymmetric(*args: object) -> ModelProto:
        broken = insert_qdq(*args)  # type: ignore[arg-type]
        point = next(item for item in broken.graph.initializer if item.name == "scaled_zero_point")
        point.CopyFrom(constant(point.name, 5, np.int8))
        return broken

    monkeypatch.setattr(module, "insert_qdq", asymmetric)
    with pytest.raises(CheckFailed, match=r"TensorRT would refuse 2 nodes.*zero point is 5"):
        quantize_graph(model, ranges, place(model))


@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_dead_tensors_get_a_usable_scale(calibrated: Path, value: float) -> None:
    model = small_model()
    ranges = {**read_table(calibrated / "calibration.json").ranges, "down": value, "inner": value}
    found = quantize_graph(model, ranges, place(model))
    ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("op", ["ConvTranspose", "Gemm", "GemmT", "MatMul"])
def test_other_weighted_ops_are_per_channel_on_the_right_axis(op: str) -> None:
    random = np.random.default_rng(0)
    transposed, op = op == "GemmT", op.rstrip("T") if op == "GemmT" else op
    shape = (4, 6, 2, 2) if op == "ConvTranspose" else (6, 4) if transposed else (4, 6)
    x = [1, 4, 5, 5] if op == "ConvTranspose" else [5, 4]
    nodes = [
        helper.make_node(op, ["x", "w"], ["a"], "first", **({"transB": 1} if transposed else {})),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv" if op == "ConvTranspose" else "MatMul", ["b", "v"], ["y"], "last"),
    ]
    weights = [
        constant("w", random.normal(size=shape)),
        constant("v", random.normal(size=(2, 6, 1, 1) if op == "ConvTranspose" else (6, 2))),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, x)], [helper.make_tensor_value_info("y", 1, None)], weights
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    ranges = {"x": 2.0, "a": 30.0, "b": 30.0}
    found = quantize_graph(model, ranges, place(model))
    scale = next(item for item in found.graph.initializer if item.name == "w_scale")
    assert list(scale.dims) == [6]
    feed = {"x": random.uniform(-2, 2, x).astype(np.float32)}
    expected, actual = (ort.InferenceSession(item.SerializeToString()).run(None, feed)[0] for item in (model, found))
    np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("left", "shape", "scales"), [(False, (4, 6), [6]), (False, (3, 4, 6), []), (True, (5, 4), []), (True, (3, 5, 4), [])]
)
def test_scales_of_a_products_constant(left: bool, shape: tuple[int, ...], scales: list[int]) -> None:
    """One a column of a plain matrix on the right; any other axis is summed over, or not taken by ONNX Runtime."""
    random = np.random.default_rng(0)
    x = (*shape[:-2], 4, 6) if left else (*shape[:-2], 5, 4)
    nodes = [
        helper.make_node("MatMul", ["w", "x"] if left else ["x", "w"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "v"], ["y"], "last"),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, x)]
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in ("a", "y")]
    constants = [constant("w", random.normal(size=shape)), constant("v", random.normal(size=(6, 2)))]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=opset, ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    found = quantize_graph(model, {"x": 2.0, "a": 30.0}, place(model))
    assert list(next(item for item in found.graph.initializer if item.name == "w_scale").dims) == scales
    feed = {"x": random.uniform(-2, 2, x).astype(np.float32)}
    expected, actual = (ort.InferenceSession(item.SerializeToString()).run(["a"], feed)[0] for item in (model, found))
    np.testing.assert_allclose(actual, expected, atol=0.03 * np.abs(expected).max())


def test_computed_sizes_and_limits_need_no_range(calibrated: Path) -> None:
    model = small_model()
    size = next(item for item in model.graph.initializer if item.name == "size")
    size.name = "stored"
    model.graph.node.insert(0, helper.make_node("Identity", ["stored"], ["size"], "compute_size"))
    del model.graph.value_info[:]
    found = quantize_graph(model, read_table(calibrated / "calibration.json").ranges, place(model))
    assert next(node for node in found.graph.node if node.name == "up").input[3] == "size"
