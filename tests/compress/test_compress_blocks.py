"""Blocks of a deploy graph by module, and a graph whose blocks have several precisions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from smallnet import small_model
from torch import nn

from segc.compress.blocks import blocks_of, int8_blocks
from segc.compress.mixed import float_nodes, lower_blocks
from segc.compress.placement import place
from segc.compress.quantize import quantize_graph
from segc.core.errors import UserError


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer1 = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*(Residual() for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(self.stem(x))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_seg(x)


class Net(nn.Module):
    """Module names as mmseg's networks have them; like them it is not called as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decode_head = Backbone(), Head()


class Deployed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.decode_head(self.model.backbone((images - 100) / 50)).argmax(1)


@pytest.fixture(scope="module", params=[pytest.param("dynamo", marks=pytest.mark.slow), "torchscript"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    torch.onnx.export(Deployed().eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=request.param == "dynamo", input_names=["images"])
    return onnx.load(path)


def test_blocks_are_the_modules_that_torch_names(exported: ModelProto) -> None:
    found = blocks_of(exported, largest=0.5)
    assert list(found) == ["backbone.stem", *(f"backbone.layer1.{index}" for index in range(4)), "decode_head.conv_seg"]
    kinds = {node.name: node.op_type for node in exported.graph.node}
    for index in range(4):
        of_block = [kinds[name] for name in found[f"backbone.layer1.{index}"]]
        assert of_block.count("Conv") == 2 and of_block[-1] == "Add" and "Relu" in of_block
    assert {"Sub", "Div"}.isdisjoint(kinds[name] for names in found.values() for name in names), "preprocessing is in no block"
    assert [kinds[name] for name in found["decode_head.conv_seg"]][-1] == "ArgMax"


def test_a_module_is_divided_where_it_is_large(exported: ModelProto) -> None:
    whole = blocks_of(exported, largest=1.0)
    assert list(whole) == ["backbone.stem", "backbone.layer1", "decode_head.conv_seg"]
    finest = blocks_of(exported, largest=0.0)
    assert "backbone.layer1.3.conv2" in finest and len(finest) == 10


def test_blocks_by_the_paths_of_parameters() -> None:
    """What torch.export leaves: nodes without a path, parameters with one."""
    model = small_model()
    places = {
        "stem": "backbone.stem",
        "inner": "backbone.layer1.0.conv",
        "down": "backbone.layer1.1.conv",
        "mix": "head.mix",
        "classify": "head.cls",
    }
    for name, path in places.items():
        rename(model, f"{name}_w", f"model.{path}.weight_scaled")
    assert blocks_of(model, largest=0.5) == {
        "backbone.stem": ["stem"],
        "backbone.layer1": ["inner", "residual", "down", "up", "joined"],
        "head.mix": ["mix"],
        "head.cls": ["classify", "argmax", "narrow"],
    }
    assert list(blocks_of(model, largest=0.3))[1:3] == ["backbone.layer1.0", "backbone.layer1.1"]


def rename(model: ModelProto, old: str, new: str) -> None:
    for item in model.graph.initializer:
        item.name = new if item.name == old else item.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def test_without_module_names_a_block_is_a_weighted_node() -> None:
    model = small_model()
    assert list(blocks_of(model)) == ["stem", "inner", "down", "mix", "classify"]
    assert int8_blocks(model, blocks_of(model)) == {"stem": ["stem"], "inner": ["inner", "residual"], "down": ["down"]}


def mixed(model: ModelProto, precisions: dict[str, str]) -> ModelProto:
    ranges = {name: 4.0 for node in model.graph.node for name in (*node.input, *node.output)}
    quantized = quantize_graph(model, ranges, place(model, float_nodes(model, precisions)))
    return lower_blocks(model, quantized, precisions, dict)


def int8_convs(model: ModelProto) -> set[str]:
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return {node.name for node in model.graph.node if node.op_type == "Conv" and makers.get(node.input[1]) == "DequantizeLinear"}


def test_a_block_in_float_has_no_int8_node() -> None:
    model = small_model()
    assert int8_convs(mixed(model, {})) == {"stem", "inner", "down"}
    assert int8_convs(mixed(model, {"inner": "fp32", "stem": "int8"})) == {"stem", "down"}


def test_blocks_in_half_and_in_full_precision_side_by_side() -> None:
    model = small_model()
    model.opset_import[0].version = 20
    made = mixed(model, {"inner": "fp16", "down": "fp32", "stem": "int8-fp16"})
    onnx.checker.check_model(made, full_check=True)
    types = {item.name: item.type.tensor_type.elem_type for item in onnx.shape_inference.infer_shapes(made).graph.value_info}
    outputs = {node.name: types[node.output[0]] for node in made.graph.node if node.op_type == "Conv" and node.output[0] in types}
    assert outputs["inner"] == outputs["stem"] == TensorProto.FLOAT16
    assert outputs["down"] == TensorProto.FLOAT and int8_convs(made) == {"stem"}
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    full = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"images": image})[0]
    assert (session.run(None, {"images": image})[0] == full).mean() > 0.8


def test_half_precision_around_int8_needs_opset_19() -> None:
    with pytest.raises(UserError, match="opset 17 has fp32 scales only"):
        mixed(small_model(), {"inner": "fp16"})


@pytest.mark.parametrize(("precisions", "told"), [({"iner": "fp32"}, "'inner'"), ({"inner": "int4"}, "'int8'")])
def test_unknown_names_tell_the_nearest(precisions: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean {told}"):
        float_nodes(small_model(), precisions)


def test_nothing_is_lowered_without_a_half_block() -> None:
    graph = helper.make_model(helper.make_graph([], "g", [], []))
    assert lower_blocks(small_model(), graph, {"inner": "fp32"}, lambda: pytest.fail("nothing is to be measured")) is graph
