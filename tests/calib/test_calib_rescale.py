"""Rescaled channels: the graph's output stays, the ranges become what the papers' formulas say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper
from smallnet import CONTRACT, constant, photos, small_bundle, small_model
from typer.testing import CliRunner

from segc.calib.calibrate import calibrate
from segc.calib.joints import find_joints
from segc.calib.rescale import choose_factors, equalizing_factors, rescaled, smoothing_factors
from segc.calib.table import read_table
from segc.cli.main import app
from segc.core.errors import UserError

node = helper.make_node


def graph(nodes: list[NodeProto], shapes: dict[str, tuple[int, ...]], x: tuple[int, ...], seed: int = 0) -> ModelProto:
    """Nodes from x to y with random constants of these shapes, and the sizes that some of them need."""
    random = np.random.default_rng(seed)
    constants = [constant(name, random.normal(size=shape)) for name, shape in shapes.items()]
    sizes = [constant("doubled", [1, 1, 2, 2]), constant("rows", [12, 6], np.int64), constant("map", [1, 3, 4, 6], np.int64)]
    constants += [item for item in sizes if any(item.name in each.input for each in nodes)]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", x), ("y", None))]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


GRAPHS = {
    "convolutions": graph(
        [
            node("Conv", ["x", "w", "b"], ["a"], pads=[1] * 4),
            node("Relu", ["a"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", ["p", "", "doubled"], ["u"], mode="linear"),
            node("Conv", ["u", "v"], ["y"]),
        ],
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 1, 1)},
        (1, 4, 6, 6),
    ),
    "grouped, depthwise and transposed": graph(
        [
            node("Conv", ["x", "w"], ["a"], group=2),
            node("LeakyRelu", ["a"], ["r"], alpha=0.1),
            node("Conv", ["r", "d"], ["e"], group=8, pads=[1] * 4),
            node("ConvTranspose", ["e", "t"], ["f"]),
            node("Conv", ["f", "v"], ["y"], group=3),
        ],
        {"w": (8, 2, 1, 1), "d": (8, 1, 3, 3), "t": (8, 6, 2, 2), "v": (9, 2, 1, 1)},
        (1, 4, 5, 5),
    ),
    "LayerNorm read by products and a convolution": graph(
        [
            node("LayerNormalization", ["x", "g", "h"], ["n"], axis=-1),
            node("Reshape", ["n", "rows"], ["flat"]),
            node("Gemm", ["flat", "w", "c"], ["q"], transB=1),
            node("MatMul", ["n", "m"], ["k"]),
            node("Reshape", ["n", "map"], ["nhwc"]),
            node("Transpose", ["nhwc"], ["nchw"], perm=[0, 3, 1, 2]),
            node("Conv", ["nchw", "v"], ["z"]),
            node("Flatten", ["z"], ["z1"]),
            node("Flatten", ["q"], ["q0"], axis=0),
            node("Flatten", ["k"], ["k1"]),
            node("Concat", ["z1", "q0", "k1"], ["y"], axis=1),
        ],
        {"g": (6,), "h": (6,), "w": (5, 6), "c": (5,), "m": (6, 4), "v": (3, 6, 1, 1)},
        (1, 12, 6),
    ),
    "products, an addition and a vector": graph(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Add", ["b", "a"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("Gemm", ["r", "v"], ["e"]),
            node("Mul", ["e", "m"], ["f"]),
            node("MatMul", ["f", "u"], ["y"]),
        ],
        {"w": (4, 8), "b": (8,), "v": (8, 6), "m": (6,), "u": (6, 3)},
        (7, 4),
    ),
}
JOINTS = {
    "convolutions": 1,
    "grouped, depthwise and transposed": 3,
    "LayerNorm read by products and a convolution": 1,
    "products, an addition and a vector": 2,
}


@settings(max_examples=12, deadline=None)
@given(name=st.sampled_from(sorted(GRAPHS)), seed=st.integers(0, 2**16))
def test_the_output_stays_for_any_factors(name: str, seed: int) -> None:
    model = GRAPHS[name]
    random = np.random.default_rng(seed)
    joints = find_joints(model)
    assert len(joints) == JOINTS[name]
    sizes = {joint.tensor: joint.made[0].largest(weights(model)[joint.made[0].constant]).size for joint in joints}
    factors = {tensor: np.exp(random.normal(0, 2, size)).tolist() for tensor, size in sizes.items()}
    x = random.normal(size=[axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]).astype(np.float32)
    changed = rescaled(model, factors)
    assert any((weights(changed)[key] != value).any() for key, value in weights(model).items())
    before, after = run(model, x), run(changed, x)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_tensors_that_cannot_be_rescaled() -> None:
    """A residual sum, a map that is an output or behind a nonlinearity, weights that two nodes share."""
    small = {joint.tensor for joint in find_joints(small_model())}
    assert small == {"mix"}, "stem is added, down is concatenated"
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Gelu", ["a"], ["r"]), node("Conv", ["r", "v"], ["y"])]
    shapes = {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)}
    assert find_joints(graph(nodes, shapes, (1, 4, 3, 3))) == []
    nodes[1] = node("Relu", ["a"], ["r"])
    assert [joint.tensor for joint in find_joints(graph(nodes, shapes, (1, 4, 3, 3)))] == ["a"]
    nodes[2] = node("Conv", ["r", "w"], ["y"])
    assert find_joints(graph(nodes, {"w": (4, 4, 1, 1)}, (1, 4, 3, 3))) == []
    with pytest.raises(UserError, match="tensor a cannot be rescaled"):
        rescaled(graph(nodes, {"w": (4, 4, 1, 1)}, (1, 4, 3, 3)), {"a": [1.0] * 4})


def test_equalized_weights_have_equal_ranges_on_both_sides() -> None:
    model = GRAPHS["convolutions"]
    found = weights(rescaled(model, equalizing_factors(model)))
    before = weights(model)
    made, read = (np.abs(each["w"]).max((1, 2, 3)) for each in (found, before))
    np.testing.assert_allclose(made, np.abs(found["v"]).max((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(made, np.sqrt(read * np.abs(before["v"]).max((0, 2, 3))), rtol=1e-5)
    np.testing.assert_allclose(found["b"], before["b"] * made / read, rtol=1e-5)


def test_a_chain_is_equalized_until_nothing_moves() -> None:
    model = GRAPHS["grouped, depthwise and transposed"]
    again = equalizing_factors(rescaled(model, equalizing_factors(model)))
    assert len(again) == 3 and all(np.allclose(factors, 1, atol=5e-3) for factors in again.values())


def test_a_dead_channel_keeps_its_scale() -> None:
    model = ModelProto()
    model.CopyFrom(GRAPHS["convolutions"])
    dead = weights(model)["v"].copy()
    dead[:, 2] = 0
    next(item for item in model.graph.initializer if item.name == "v").CopyFrom(constant("v", dead))
    assert equalizing_factors(model)["a"][2] == 1.0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_smoothing_follows_the_papers_formula(alpha: float) -> None:
    model = GRAPHS["LayerNorm read by products and a convolution"]
    x = np.abs(np.random.default_rng(1).normal(size=6))
    values = weights(model)
    read = np.max([np.abs(values["w"]).max(0), np.abs(values["m"]).max(1), np.abs(values["v"]).max((0, 2, 3))], axis=0)
    factors = smoothing_factors(model, dict.fromkeys(("flat", "n", "nchw"), x), alpha)
    np.testing.assert_allclose(factors["n"], x**alpha / read ** (1 - alpha))


def test_smoothing_of_a_graph_evens_its_activations(tmp_path: Path) -> None:
    model = small_model()
    factors = choose_factors(model, CONTRACT, photos(tmp_path), smooth_quant=1.0, threads=1)
    changed = small_bundle(tmp_path / "changed", rescaled(model, factors))
    again = choose_factors(onnx.load(changed / "model.onnx"), CONTRACT, photos(tmp_path), smooth_quant=1.0, threads=1)
    np.testing.assert_allclose(again["mix"], 1, rtol=1e-4)
    assert np.ptp(factors["mix"]) > 0.1


def test_the_table_belongs_to_the_rescaled_graph(tmp_path: Path) -> None:
    bundle, images = small_bundle(tmp_path / "bundle"), photos(tmp_path)
    plain = read_table(calibrate(bundle, images, method="minmax", threads=1))
    table = read_table(calibrate(bundle, images, method="minmax", equalize=True, smooth_quant=0.5, threads=1))
    assert table.equalize and table.smooth_quant == 0.5 and plain.rescaled == {} and list(table.rescaled) == ["mix"]
    other = small_bundle(tmp_path / "other", rescaled(small_model(), table.rescaled))
    assert read_table(calibrate(other, images, method="minmax", threads=1)).ranges == pytest.approx(table.ranges, rel=1e-5)
    assert table.ranges["mix"] != pytest.approx(plain.ranges["mix"], rel=0.01)
    assert table.ranges["classify"] == pytest.approx(plain.ranges["classify"], rel=1e-5)


def test_refusals(tmp_path: Path) -> None:
    bundle, images = small_bundle(tmp_path / "bundle"), photos(tmp_path / "photos")
    with pytest.raises(UserError, match=r"--smooth-quant is 1\.5"):
        calibrate(bundle, images, smooth_quant=1.5)
    model = small_model()
    model.graph.node[-3].input[0] = "residual"
    with pytest.raises(UserError, match="no tensor of this graph can be rescaled"):
        choose_factors(model, CONTRACT, images, equalize=True)
    arguments = ["calibrate", str(bundle), "--images", str(tmp_path / "photos"), "--equalize", "--to-cache", str(tmp_path / "cache")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and not (bundle / "calibration.json").exists()
    assert "belongs to the fp32 graph as it is" in refused.output
