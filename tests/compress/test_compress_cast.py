"""fp16 by casts: which nodes, why the others do not, and that the numbers are those of the fp32 graph rounded to half precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from smallnet import HEIGHT, WIDTH, constant, small_model

from segc.compress.cast import FP16, REASON_BEFORE, REASON_POSITIONS, REASON_USER, cast_graph, keep_in_fp32
from segc.compress.scales import floor_weight_scales
from segc.ops.onnx_functions.library import add_functions

NODES = [node.name for node in small_model().graph.node]
PREPROCESSING = {"cast", "transpose", "sub", "div"}


def logits_model() -> ModelProto:
    """The small network up to its logits."""
    model = small_model()
    del model.graph.node[-2:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("classify", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH]))
    return model


def run(model: ModelProto, feeds: dict[str, np.ndarray] | None = None) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds or {"images": images})[0]


def types(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {item.name: item.type.tensor_type.elem_type for item in (*inferred.value_info, *inferred.input, *inferred.output)}
    return found | {item.name: item.data_type for item in inferred.initializer}


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def test_activations_become_half_and_pixels_do_not() -> None:
    kept = keep_in_fp32(small_model(), FP16, {})
    assert kept == dict.fromkeys(["cast", "transpose", "sub", "div"], REASON_BEFORE)
    model = cast_graph(small_model(), FP16, kept)
    onnx.checker.check_model(model, full_check=True)
    kinds = types(model)
    assert all(kinds[name] == TensorProto.FLOAT16 for name in ("stem", "inner", "residual", "up", "joined", "classify", "stem_w_fp16"))
    assert kinds["scaled"] == TensorProto.FLOAT and kinds["images"] == kinds["class_map"] == TensorProto.UINT8
    assert {item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT} == {"mean", "std"}
    assert sum(each.op_type == "Cast" for each in model.graph.node) == 3


def test_logits_are_those_of_fp32_within_half_precision() -> None:
    model = logits_model()
    full, half = run(model), run(cast_graph(model, FP16, keep_in_fp32(model, FP16, {})))
    assert half.dtype == np.float32, "outputs keep their type"
    assert 0 < np.abs(half - full).max() < 2.0**-8 * np.abs(full).max()


@settings(max_examples=25)
@given(kept=st.sets(st.sampled_from(NODES)))
def test_any_choice_gives_a_valid_graph_without_idle_casts(kept: set[str]) -> None:
    model = cast_graph(logits_model(), FP16, kept | PREPROCESSING)
    onnx.checker.check_model(model, full_check=True)
    full = run(logits_model())
    assert np.abs(run(model) - full).max() < 2.0**-8 * np.abs(full).max()
    made = {name: each for each in model.graph.node for name in each.output}
    casts = [each for each in model.graph.node if each.op_type == "Cast" and each.name != "cast"]
    assert len({each.input[0] + str(each.attribute) for each in casts}) == len(casts), "one cast a tensor and direction"
    assert not any(made[each.input[0]].op_type == "Cast" and each.input[0] != "float" for each in casts), "no cast of a cast"


def test_everything_kept_is_the_graph_itself() -> None:
    np.testing.assert_array_equal(run(cast_graph(logits_model(), FP16, NODES)), run(logits_model()))


@pytest.mark.parametrize(("magnitude", "told"), [(40000.0, "inner reaches 4e+04; fp16 ends at 65504"), (1e-6, "inner reaches only 1e-06")])
def test_a_tensor_out_of_range_keeps_its_maker_and_readers(magnitude: float, told: str) -> None:
    kept = keep_in_fp32(small_model(), FP16, {"inner": magnitude})
    assert set(kept) - PREPROCESSING == {"inner", "residual"}
    assert kept["inner"].startswith(told)
    kinds = types(cast_graph(small_model(), FP16, kept))
    assert kinds["inner"] == kinds["residual"] == TensorProto.FLOAT and kinds["down"] == TensorProto.FLOAT16


def test_a_large_constant_keeps_its_reader() -> None:
    model = small_model()
    weight = next(item for item in model.graph.initializer if item.name == "mix_b")
    weight.CopyFrom(constant("mix_b", np.full(8, 1e5)))
    assert keep_in_fp32(model, FP16, {})["mix"] == "mix_b reaches 1e+05; fp16 ends at 65504"


def test_nodes_are_kept_by_name() -> None:
    assert keep_in_fp32(small_model(), FP16, {}, ["mix"])["mix"] == REASON_USER


def test_sizes_and_sampling_positions_stay_in_fp32() -> None:
    """Half the size of a map, computed in floats, and a grid that a convolution moves."""
    make = helper.make_node
    nodes = [
        make("Conv", ["images", "w"], ["map"], "conv"),
        make("Shape", ["map"], ["shape"], "shape"),
        make("Cast", ["shape"], ["sizes"], "sizes", to=TensorProto.FLOAT),
        make("Mul", ["sizes", "halves"], ["halved"], "halve"),
        make("Cast", ["halved"], ["size"], "size", to=TensorProto.INT64),
        make("Resize", ["map", "", "", "size"], ["small"], "resize"),
        make("Conv", ["map", "v"], ["offsets"], "offsets"),
        make("Transpose", ["offsets"], ["moved"], "moved", perm=[0, 2, 3, 1]),
        make("Add", ["moved", "base"], ["grid"], "grid"),
        make("GridSample", ["small", "grid"], ["sampled"], "sample"),
        make("Relu", ["sampled"], ["out"], "relu"),
    ]
    weights = [constant("w", np.ones((2, 2, 1, 1))), constant("v", np.full((2, 2, 1, 1), 0.01)), constant("base", np.zeros((1, 8, 8, 2)))]
    halves = constant("halves", [1, 1, 0.5, 0.5])
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("images", [1, 2, 8, 8]), ("out", [1, 2, 8, 8]))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [*weights, halves])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    kept = keep_in_fp32(model, FP16, {})
    assert kept == {
        "sizes": REASON_BEFORE,
        "halve": REASON_BEFORE,
        "size": REASON_BEFORE,
        "sample": REASON_POSITIONS,
        "grid": REASON_POSITIONS,
        "moved": REASON_POSITIONS,
    }
    feeds = {"images": np.random.default_rng(0).normal(0, 1, (1, 2, 8, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(cast_graph(model, FP16, kept), feeds), run(model, feeds), atol=2e-3)


def test_a_scan_keeps_its_decay_in_fp32() -> None:
    shapes = {"u": (1, 4, 9), "delta": (1, 4, 9), "A": (4, 1), "B": (1, 1, 1, 9), "C": (1, 1, 1, 9), "D": (4,), "delta_bias": (4,)}
    random = np.random.default_rng(0)
    values = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    values["A"] = -np.abs(values["A"])
    fixed = [numpy_helper.from_array(values[name], name) for name in shapes if name != "u"]
    nodes = [
        helper.make_node("MatMul", ["eye", "images"], ["u"], "product"),
        helper.make_node("SelectiveScan", list(shapes), ["y"], "scan", domain="segc", delta_softplus=1, reverse=0, plugin_version="1"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 9]) for name in ("images", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [*fixed, numpy_helper.from_array(np.eye(4, dtype=np.float32), "eye")])
    model = add_functions(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    half = cast_graph(model, FP16, keep_in_fp32(model, FP16, {}))
    assert [name.endswith("_fp16") for name in node(half, "scan").input] == [False, True, False, True, True, False, False]
    feeds = {"images": values["u"]}
    full = run(model, feeds)
    assert 0 < np.abs(run(half, feeds) - full).max() < 2.0**-8 * np.abs(full).max()


def test_channels_that_were_switched_off_get_scales_that_half_precision_holds() -> None:
    scales = np.array([0.1, 1e-9, 2.0**-18, 0.0], np.float32)
    weight = np.array([[100, -50], [127, -127], [100, -50], [3, 4]], np.int8)
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "s"], ["y"], "pair", axis=0)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 2])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scales, "s")],
    )
    model = floor_weight_scales(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), FP16.smallest)
    found = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    np.testing.assert_array_equal(found["s"], np.array([0.1, *[2.0**-17] * 3], np.float32))
    np.testing.assert_array_equal(found["w"], [[100, -50], [0, 0], [50, -25], [0, 0]])
