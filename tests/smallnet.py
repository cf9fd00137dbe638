"""A small convolutional deploy graph with a residual Add, a Concat and an upsampling head, and a bundle of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.files import sha256_file
from segc.core.images import write_image
from segc.runtime.bundle import Graph, Manifest, write_manifest

HEIGHT, WIDTH = 32, 48
CONTRACT = Contract(
    classes=["a", "b", "c"], palette=[(0, 0, 0), (9, 9, 9), (99, 99, 99)], height=HEIGHT, width=WIDTH, mean=(120,) * 3, std=(60,) * 3
)  # fmt: skip


def constant(name: str, value: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def small_model(contract: Contract = CONTRACT, seed: int = 0) -> ModelProto:
    """normalise -> stem -> (conv, identity) residual -> strided branch, upsampled and concatenated -> classifier -> ArgMax."""
    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return constant(name, random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))

    def conv(name: str, source: str, stride: int = 1, kernel: int = 3) -> onnx.NodeProto:
        pads = [kernel // 2] * 4
        return helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [name], name, pads=pads, strides=[stride, stride])

    nodes = [
        helper.make_node("Cast", ["images"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["nchw", "mean"], ["centred"], "sub"),
        helper.make_node("Div", ["centred", "std"], ["scaled"], "div"),
        conv("stem", "scaled"),
        conv("inner", "stem"),
        helper.make_node("Add", ["inner", "stem"], ["residual"], "residual"),
        conv("down", "residual", stride=2),
        helper.make_node(
            "Resize", ["down", "", "", "size"], ["up"], "up", mode="linear", coordinate_transformation_mode="half_pixel"
        ),
        helper.make_node("Concat", ["residual", "up"], ["joined"], "joined", axis=1),
        conv("mix", "joined"),
        conv("classify", "mix", kernel=1),
        helper.make_node("ArgMax", ["classify"], ["index"], "argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["class_map"], "narrow", to=TensorProto.UINT8),
    ]  # fmt: skip
    shapes = {"stem": (8, 3, 3, 3), "inner": (8, 8, 3, 3), "down": (8, 8, 3, 3), "mix": (8, 16, 3, 3), "classify": (3, 8, 1, 1)}
    constants = [constant("mean", np.full((1, 3, 1, 1), 120)), constant("std", np.full((1, 3, 1, 1), 60))]
    constants += [constant("size", [1, 8, HEIGHT, WIDTH], np.int64)]
    for name, shape in shapes.items():
        constants += [weight(f"{name}_w", *shape), constant(f"{name}_b", random.normal(0, 0.1, shape[0]))]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
    output = helper.make_tensor_value_info("class_map", TensorProto.UINT8, [1, HEIGHT, WIDTH])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [output], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )  # fmt: skip
    helper.set_model_props(model, {CONTRACT_KEY: contract.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def small_bundle(folder: Path, model: ModelProto | None = None, contract: Contract = CONTRACT) -> Path:
    folder.mkdir()
    onnx.save(model or small_model(contract), folder / "model.onnx")
    graph = Graph(file="model.onnx", sha256=sha256_file(folder / "model.onnx"), opset=17)
    write_manifest(folder, Manifest(name="small", contract=contract, graphs={"fp32": graph}))
    return folder


def photos(folder: Path) -> list[Path]:
    """Real photographs at the graph's size."""
    import cv2
    from skimage import data

    paths = []
    for name in ("astronaut", "chelsea", "coffee"):
        paths.append(folder / f"{name}.png")
        write_image(paths[-1], cv2.resize(getattr(data, name)(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    return paths


def write_spec(root: Path) -> None:
    """The description of a labelled set of ``CONTRACT``'s classes."""
    spec = {"name": "small", "classes": CONTRACT.classes, "palette": [list(colour) for colour in CONTRACT.palette]}
    (root / "dataset.json").write_text(json.dumps(spec))


def linked_set(root: Path, count: int, label: NDArray[np.uint8]) -> Path:
    """A labelled set of ``count`` names for a few photographs and one label (HEIGHT, WIDTH)."""
    write_spec(root)
    write_image(root / "label.png", label)
    sources = photos(root)
    for index in range(count):
        for kind, source in (("images", sources[index % len(sources)]), ("labels", root / "label.png")):
            (root / kind / "val").mkdir(parents=True, exist_ok=True)
            os.link(source, root / kind / "val" / f"{index:04d}.png")
    return root
