"""A deploy graph whose class map is known, a bundle and a labelled set of it: pixels whose red sample is above 127 are class 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.files import sha256_file
from segc.core.images import write_image
from segc.runtime.bundle import Graph, Manifest, write_manifest

DYNAMIC = Contract(
    classes=["dark", "bright"], palette=[(0, 0, 128), (255, 200, 0)], batch=None, height=None, width=None, mean=(0,) * 3, std=(1,) * 3
)  # fmt: skip
SPEC = {"name": "threshold", "classes": ["dark", "bright"], "palette": [[0, 0, 128], [255, 200, 0]]}


def save_graph(path: Path, contract: Contract) -> Path:
    """A graph that gives 1 where the red sample is above 127, or the logits (127.5, red)."""
    shape = [contract.batch or "N", contract.height or "H", contract.width or "W"]
    red = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["float", "zero"], ["red"], axis=3),
    ]
    if contract.output == "argmax":
        nodes = [
            *red,
            helper.make_node("Greater", ["red", "half"], ["mask"]),
            helper.make_node("Cast", ["mask"], ["class_map"], to=TensorProto.UINT8),
        ]
        output = helper.make_tensor_value_info("class_map", TensorProto.UINT8, shape)
    else:
        nodes = [
            *red,
            helper.make_node("Mul", ["red", "none"], ["black"]),
            helper.make_node("Add", ["black", "half"], ["grey"]),
            helper.make_node("Unsqueeze", ["grey", "axis"], ["first"]),
            helper.make_node("Unsqueeze", ["red", "axis"], ["second"]),
            helper.make_node("Concat", ["first", "second"], ["logits"], axis=1),
        ]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 2, *shape[1:]])
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [127.5]),
        helper.make_tensor("none", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [*shape, 3])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [output], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )  # fmt: skip
    helper.set_model_props(model, {CONTRACT_KEY: contract.model_dump_json()})
    onnx.save(model, path)
    return path


def make_bundle(folder: Path, contract: Contract = DYNAMIC) -> Path:
    folder.mkdir()
    graph = save_graph(folder / "model.onnx", contract)
    graphs = {"fp32": Graph(file="model.onnx", sha256=sha256_file(graph), opset=17)}
    write_manifest(folder, Manifest(name="threshold", contract=contract, graphs=graphs))
    return folder


def make_set(root: Path, count: int = 3, size: tuple[int, int] = (20, 30)) -> Path:
    """Random images; the label is the toy network's answer, but for the top row (wrong) and the last column (ignored)."""
    rng = np.random.default_rng(0)
    for index in range(count):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        label = (image[:, :, 0] > 127).astype(np.uint8)
        label[0] = 1 - label[0]
        label[:, -1] = 255
        write_image(root / "images" / "val" / f"{index}.png", image)
        write_image(root / "labels" / "val" / f"{index}.png", label)
    (root / "dataset.json").write_text(json.dumps(SPEC))
    return root
