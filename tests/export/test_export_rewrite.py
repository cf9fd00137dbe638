"""The moved pointwise convolution gives what the old graph gave; where it would not, nothing moves."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from segc.export.rewrite import push_pointwise_through_resize, shrink_constant_maps, split_behind_upsampling

SIZES = ((12, 16), (6, 8), (3, 4))


def head(
    *, bias: bool = True, mode: str = "half_pixel", resized: tuple[int, ...] = (1, 2), axis: int = 1, group: int = 1, extra: str = "",
    interpolation: str = "linear", kernel: int = 1, size_axes: list[int] | None = None, channels: tuple[int, ...] = (3, 5, 4),
) -> ModelProto:  # fmt: skip
    """A SegFormer-like fusion: maps of three sizes, those in ``resized`` brought to the first's size, concatenated, fused, Relu."""
    random = np.random.default_rng(0)
    inputs, names, nodes, constants = [], [], [], []
    for index, (count, size) in enumerate(zip(channels, SIZES, strict=False)):
        shape = [1, count, *(size if index in resized else SIZES[0])]
        inputs.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape))
        names.append(f"x{index}")
        if index in resized:
            full = [1, count, *SIZES[0]] if size_axes is None else list(SIZES[0])
            constants.append(numpy_helper.from_array(np.array(full, np.int64), f"size{index}"))
            attributes = {"mode": interpolation, "coordinate_transformation_mode": mode} | ({"axes": size_axes} if size_axes else {})
            nodes.append(helper.make_node("Resize", [f"x{index}", "", "", f"size{index}"], [f"up{index}"], f"resize{index}", **attributes))
            names[-1] = f"up{index}"
    nodes.append(helper.make_node("Concat", names, ["joined"], "concat", axis=axis))
    wide = channels[0] if axis == 2 else sum(channels[: len(names)])
    constants.append(numpy_helper.from_array(random.normal(size=(4, wide // group, kernel, kernel)).astype(np.float32), "w"))
    if bias:
        constants.append(numpy_helper.from_array(random.normal(size=4).astype(np.float32), "b"))
    nodes.append(
        helper.make_node("Conv", ["joined", "w", *(["b"] if bias else [])], ["fused"], "fuse", group=group, pads=[kernel // 2] * 4)
    )
    nodes.append(helper.make_node("Relu", ["fused"], ["y"], "relu"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if extra:
        nodes.append(helper.make_node("Relu", [extra], ["z"], "other"))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )  # fmt: skip


def run(model: ModelProto) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    feed = {
        item.name: random.normal(size=[dim.dim_value or 12 for dim in item.type.tensor_type.shape.dim]).astype(np.float32)
        for item in model.graph.input
    }
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def rewritten(model: ModelProto) -> tuple[int, ModelProto]:
    copy = ModelProto()
    copy.CopyFrom(model)
    return push_pointwise_through_resize(copy), copy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("resized", [(1, 2), (0, 1, 2), (2,)])
def test_outputs_are_equal(bias: bool, mode: str, resized: tuple[int, ...]) -> None:
    model = head(bias=bias, mode=mode, resized=resized)
    moved, copy = rewritten(model)
    onnx.checker.check_model(copy, full_check=True)
    assert moved == 1
    ops = [node.op_type for node in copy.graph.node]
    assert ops.count("Conv") == 3 and ops.count("Resize") == len(resized) and "Concat" not in ops
    makers = {name: node.op_type for node in copy.graph.node for name in node.output}
    assert all(makers[node.input[0]] == "Conv" for node in copy.graph.node if node.op_type == "Resize")
    np.testing.assert_allclose(run(copy)[0], run(model)[0], rtol=1e-4, atol=1e-5)


def test_all_constants_are_used() -> None:
    _, copy = rewritten(head())
    used = {name for node in copy.graph.node for name in node.input}
    assert {item.name for item in copy.graph.initializer} <= used
    names = [node.name for node in copy.graph.node]
    assert len(set(names)) == len(names)


CASES = {
    "concat read twice": {"extra": "joined"},
    "nothing resized": {"resized": ()},
    "every resized map read twice": {"extra": "up1", "resized": (1,)},
    "grouped": {"group": 2},
    "not pointwise": {"kernel": 3},
    "nearest": {"interpolation": "nearest"},
    "size along some axes": {"size_axes": [2, 3]},
    "joined along the height": {"axis": 2, "channels": (3, 3, 3)},
    "a single map": {"channels": (3,), "resized": (0,)},
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_moves(case: str) -> None:
    model = head(**CASES[case])
    moved, copy = rewritten(model)
    assert moved == 0
    assert [node.SerializeToString() for node in copy.graph.node] == [node.SerializeToString() for node in model.graph.node]
    np.testing.assert_array_equal(run(copy)[0], run(model)[0])


def test_one_shared_map_stays_while_the_other_moves() -> None:
    model = head(extra="up1")
    moved, copy = rewritten(model)
    assert moved == 1
    for found, expected in zip(run(copy), run(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_known", [True, False])
def test_computed_sizes(channels_known: bool) -> None:
    model = head()
    sizes = [item for item in model.graph.initializer if item.name.startswith("size")]
    nodes = [helper.make_node("Identity", [f"{item.name}_given"], [item.name]) for item in sizes]
    for item, node in zip(sizes, nodes, strict=True):
        item.name = node.input[0]
        model.graph.node.insert(0, node)
    if not channels_known:
        for item in model.graph.input:
            item.type.tensor_type.shape.dim[1].dim_param = f"channels_{item.name}"
    assert rewritten(model)[0] == 0


def nodes_of(model: ModelProto, op: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def test_two_heads() -> None:
    """Both convolutions of a graph move, each with its own parts."""
    first, second = head(), onnx.compose.add_prefix(head(bias=False), "second_")
    model = onnx.compose.merge_graphs(first.graph, second.graph, io_map=[])
    both = helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    moved, copy = rewritten(both)
    assert moved == 2 and len(nodes_of(copy, "Conv")) == 6
    for found, expected in zip(run(copy), run(both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_behind_upsampling_is_split_exactly() -> None:
    from smallnet import HEIGHT, WIDTH, small_model

    before, after = small_model(), small_model()
    assert split_behind_upsampling(after) == 1
    onnx.checker.check_model(after)
    names = {node.name for node in after.graph.node}
    assert {"mix_split0", "mix_split1"} <= names and not {"mix", "joined"} & names
    image = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    logits = []
    for model in (before, after):
        model.graph.output.append(helper.make_empty_tensor_value_info("classify"))
        logits.append(ort.InferenceSession(model.SerializeToString()).run(["classify"], {"images": image})[0])
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_grouped_convolutions_are_not_split() -> None:
    from smallnet import small_model

    model = small_model()
    mix = next(node for node in model.graph.node if node.name == "mix")
    mix.attribute.append(helper.make_attribute("group", 2))
    assert split_behind_upsampling(model) == 0


def depthwise_head() -> ModelProto:
    """DeepLabV3+'s: Concat(a, Resize(b)) -> depthwise 3x3 -> Relu -> pointwise -> Relu."""
    random = np.random.default_rng(0)
    shapes = {"x0": [1, 3, *SIZES[0]], "x1": [1, 5, *SIZES[1]]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    values = {
        "size": np.array([1, 5, *SIZES[0]], np.int64),
        "dw": random.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "db": random.normal(size=8).astype(np.float32),
        "pw": random.normal(size=(4, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Resize", ["x1", "", "", "size"], ["up"], "up", mode="linear"),
        helper.make_node("Concat", ["x0", "up"], ["joined"], "concat", axis=1),
        helper.make_node("Conv", ["joined", "dw", "db"], ["deep"], "deep", group=8, pads=[1] * 4),
        helper.make_node("Relu", ["deep"], ["positive"], "relu"),
        helper.make_node("Conv", ["positive", "pw"], ["point"], "point"),
        helper.make_node("Relu", ["point"], ["y"], "last"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_depthwise_convolution_is_split_and_so_is_what_reads_it() -> None:
    model, copy = depthwise_head(), depthwise_head()
    assert split_behind_upsampling(copy) == 2
    onnx.checker.check_model(copy, full_check=True)
    assert not nodes_of(copy, "Concat") and len(nodes_of(copy, "Conv")) == 4 and len(nodes_of(copy, "Add")) == 1
    np.testing.assert_allclose(run(copy)[0], run(model)[0], rtol=1e-4, atol=1e-5)


def constant_map(kernel: int, dilation: int, pad: int, size: int, stride: int = 1, source: int = 1) -> ModelProto:
    """Image pooling: one pixel -> Resize -> Conv."""
    random = np.random.default_rng(0)
    values = {
        "size": np.array([1, 3, size, size + 2], np.int64),
        "w": random.normal(size=(4, 3, kernel, kernel)).astype(np.float32),
        "b": random.normal(size=4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Resize", ["x0", "", "", "size"], ["up"], "up", mode="linear"),
        helper.make_node("Conv", ["up", "w", "b"], ["y"], "conv", pads=[pad] * 4, dilations=[dilation] * 2, strides=[stride] * 2),
    ]
    inputs = [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 3, source, source])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("kernel", "dilation", "pad", "size"), [(3, 1, 1, 9), (3, 1, 1, 4), (1, 1, 0, 5), (3, 3, 3, 12), (5, 1, 2, 8)])
def test_a_convolution_of_a_constant_map_is_run_on_few_pixels(kernel: int, dilation: int, pad: int, size: int) -> None:
    model, copy = (constant_map(kernel, dilation, pad, size) for _ in range(2))
    assert shrink_constant_maps(copy) == 1
    onnx.checker.check_model(copy, full_check=True)
    np.testing.assert_allclose(run(copy)[0], run(model)[0], rtol=1e-4, atol=1e-5)
    resize = nodes_of(copy, "Resize")[0]
    sides = next(numpy_helper.to_array(item) for item in copy.graph.initializer if item.name == resize.input[3])[2:]
    assert list(sides) == [2 * pad + 1] * 2


@pytest.mark.parametrize("case", [(3, 1, 1, 3), (3, 1, 0, 9), (3, 1, 1, 9, 2), (3, 1, 1, 9, 1, 2)])
def test_other_maps_are_convolved_whole(case: tuple[int, ...]) -> None:
    assert shrink_constant_maps(constant_map(*case)) == 0
