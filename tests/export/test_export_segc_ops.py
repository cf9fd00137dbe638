"""Networks with our operators, exported whole: the nodes, their bodies, and what runtimes make of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.export.engine import rtx
from segc.export.onnx_graph import Exporter, build_graph
from segc.export.segc_ops import inlined
from segc.ops.attention import neighborhood_attention_2d
from segc.ops.onnx_functions.signature import DOMAIN, PLUGIN_ATTRIBUTES, SIGNATURES
from segc.ops.scan import cross_selective_scan, selective_scan
from segc.runtime.backends.onnx_metadata import has_functions
from segc.runtime.backends.onnx_runtime import OnnxRuntimeRunner
from segc.runtime.backends.openvino_backend import OpenVinoRunner

SIZE = (16, 24)


class Net(nn.Module):
    """uint8 (N, H, W, 3) -> logits (N, 2, H, W), through every operator: with and without D, delta_bias and rpb, both ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.classify = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)
        self.project = nn.Conv2d(4, 16 + 8 + 8, 1)
        self.A, self.D, self.bias = (nn.Parameter(torch.rand(16, *more)) for more in ((1,), (), ()))
        self.rpb = nn.Parameter(torch.randn(2, 5, 9))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images.float() / 255).permute(0, 3, 1, 2))
        batch, _, height, width = x.shape
        delta, b, c = self.project(x).split((16, 8, 8), 1)
        states = (batch, 4, 2, height, width)
        decay = -torch.exp(self.A).repeat(1, 2)
        x = x + cross_selective_scan(x, delta, decay, b.reshape(states), c.reshape(states), self.D, self.bias, delta_softplus=True)
        u, dt = x.flatten(2), delta[:, :4].flatten(2)
        for back in (False, True):
            u = u + selective_scan(u, dt, decay[:4, :1], dt[:, :1], dt[:, 1:2], None, None, delta_softplus=True, reverse=back)
        q = u.view_as(x).permute(0, 2, 3, 1).reshape(batch, height, width, 2, 2)
        q = q + neighborhood_attention_2d(q, q, q, (3, 5), rpb=self.rpb)
        q = q + neighborhood_attention_2d(q, q, q, 3, dilation=2, scale=0.7)
        logits = self.classify(q.flatten(3).permute(0, 3, 1, 2))
        return nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear")


def contract(dynamic: bool = False) -> Contract:
    height, width = (None, None) if dynamic else SIZE
    return Contract(
        classes=["a", "b"], palette=[(0, 0, 0), (9, 9, 9)], height=height, width=width, mean=(0,) * 3, std=(1,) * 3, output="logits"
    )  # fmt: skip


def graph(exporter: Exporter = "dynamo", dynamic: bool = False, simplify: bool = True) -> ModelProto:
    opset = 20 if exporter == "dynamo" else 17
    return build_graph(Net().eval(), contract(dynamic), opset=opset, exporter=exporter, simplify=simplify, example_size=SIZE)


@pytest.fixture(scope="module")
def exported() -> ModelProto:
    return graph()


def agree(found: Any, images: np.ndarray) -> None:
    with torch.no_grad():
        wanted = Net().eval()(torch.from_numpy(images)).numpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def pictures(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)


def saved(model: ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def ours(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


@pytest.mark.parametrize(("exporter", "simplify"), [("dynamo", True), ("torchscript", True), ("torchscript", False)])
def test_every_operator_is_one_node_with_a_body(exporter: Exporter, simplify: bool, tmp_path: Path) -> None:
    model = graph(exporter, simplify=simplify)
    kinds = sorted(node.op_type for node in ours(model))
    assert kinds == ["CrossSelectiveScan"] + ["NeighborhoodAttention2D"] * 2 + ["SelectiveScan"] * 2
    assert sorted(item.name for item in model.functions) == sorted(SIGNATURES)
    agree(OnnxRuntimeRunner(saved(model, tmp_path), threads=1).run(pictures(*SIZE)), pictures(*SIZE))


def test_nodes_say_what_a_plugin_reads(exported: ModelProto) -> None:
    for node in ours(exported):
        signature = SIGNATURES[node.op_type]
        found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        assert {name: found.pop(name).decode() for name in PLUGIN_ATTRIBUTES} == PLUGIN_ATTRIBUTES
        assert list(found) == [name for name in found if name in signature.attributes] and len(found) == len(signature.attributes)
        assert len(node.input) == len(signature.inputs) + len(signature.optional) and all(node.input)


def test_shapes_are_known_through_the_nodes(exported: ModelProto) -> None:
    typed = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in exported.graph.value_info}
    for node in ours(exported):
        assert all(typed[node.output[0]])


def test_any_size(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(saved(graph(dynamic=True), tmp_path), threads=1)
    for size in (SIZE, (32, 20), (50, 66)):
        agree(runner.run(pictures(*size)), pictures(*size))


def test_openvino_takes_the_bodies(exported: ModelProto, tmp_path: Path) -> None:
    path = saved(exported, tmp_path)
    assert has_functions(path)
    agree(OpenVinoRunner(path, threads=1).run(pictures(*SIZE)), pictures(*SIZE))


def test_openvino_without_onnx_says_what_to_install(exported: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    with pytest.raises(UserError, match=r"needs the Python package 'onnx'.*pip install 'segc\[openvino\]'"):
        OpenVinoRunner(saved(exported, tmp_path), threads=1)


def test_inlined_has_standard_operators_only(exported: ModelProto, tmp_path: Path) -> None:
    plain = inlined(exported)
    onnx.checker.check_model(plain, full_check=True)
    assert not ours(plain) and not plain.functions and not has_functions(saved(plain, tmp_path))


@pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")
def test_tensorrt_takes_the_bodies(exported: ModelProto) -> None:
    assert rtx.build(exported).layers > 500
