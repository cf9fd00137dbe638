"""Exact rewrites that make a deploy graph cheaper, or quantizable, in every runtime. It is checked against torch after them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper


def push_pointwise_through_resize(model: ModelProto) -> int:
    """Run a 1x1 convolution of concatenated, upsampled maps before the upsampling, in place; returns how many were moved.

    ``Conv1x1(Concat(Resize(x_i)))`` equals ``Sum(Resize(Conv1x1_i(x_i)))``, because linear interpolation and a pointwise convolution
    act on different axes and the interpolation weights of a pixel sum to one (so that the bias may be added once). SegFormer's
    and SegNeXt's all-MLP heads spend most of their multiplications there: at 512x512 B0's fusion layer shrinks to a third.
    """
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    users = _count_users(model)
    moved = 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        concat = makers.get(conv.input[0])
        if concat is None or not _is_pointwise(conv, weights) or not _joins_channels(concat) or users[concat.output[0]] > 1:
            continue
        channels = _channels(model, concat)
        if sum(channels) != weights[conv.input[1]].dims[1] or not all(channels):
            continue
        sources = [_source(name, count, makers, weights, users) for name, count in zip(concat.input, channels, strict=True)]
        if not any(resize is not None for _, resize in sources):
            continue
        _replace(model, conv, channels, sources, weights)
        moved += 1
    if moved:
        _drop_unused(model)
    return moved


def split_behind_upsampling(model: ModelProto) -> int:
    """Split a convolution of concatenated maps into one of the maps as they are and one of each upsampled map, in place.

    ``Conv(Concat(a, Resize(b)))`` equals ``Conv_a(a) + Conv_b(Resize(b))``: the same multiplications and one Add. Each part can then be
    quantized: OpenVINO computes an int8 convolution wrongly, or in fp32, when a Concat mixes upsampled maps into its input.

    Returns:
        How many were split; grouped convolutions and unknown channel counts stay.
    """
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    weights = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    users = _count_users(model)
    split = 0
    for conv in [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights and _groups(node) == 1]:
        concat = makers.get(conv.input[0])
        if concat is None or not _joins_channels(concat) or users[concat.output[0]] > 1:
            continue
        channels = _channels(model, concat)
        upsampled = [index for index, name in enumerate(concat.input) if name in makers and makers[name].op_type == "Resize"]
        others = [index for index in range(len(channels)) if index not in upsampled]
        if upsampled and others and all(channels) and sum(channels) == weights[conv.input[1]].dims[1]:
            _split(model, conv, concat, channels, [others, *([index] for index in upsampled)], weights)
            split += 1
    if split:
        _drop_unused(model)
    return split


def _groups(conv: NodeProto) -> int:
    return next((int(item.i) for item in conv.attribute if item.name == "group"), 1)


def _split(
    model: ModelProto,
    conv: NodeProto,
    concat: NodeProto,
    channels: list[int],
    parts: list[list[int]],
    weights: dict[str, onnx.TensorProto],
) -> None:
    """Replace ``conv`` by the sum of one convolution per entry of ``parts`` (indices of the Concat's inputs)."""
    kernels = np.split(numpy_helper.to_array(weights[conv.input[1]]), np.cumsum(channels)[:-1], axis=1)
    nodes, outputs = [], []
    for number, indices in enumerate(parts):
        kernel = np.ascontiguousarray(np.concatenate([kernels[index] for index in indices], axis=1))
        model.graph.initializer.append(numpy_helper.from_array(kernel, f"{conv.input[1]}_split{number}"))
        source = concat.input[indices[0]]
        if len(indices) > 1:
            source = f"{conv.output[0]}_joined{number}"
            names = [concat.input[index] for index in indices]
            nodes.append(helper.make_node("Concat", names, [source], f"{concat.name}_split{number}", axis=1))
        bias = list(conv.input[2:]) if number == 0 else []
        outputs.append(f"{conv.output[0]}_split{number}")
        nodes.append(
            helper.make_node("Conv", [source, f"{conv.input[1]}_split{number}", *bias], [outputs[-1]], f"{conv.name}_split{number}")
        )
        nodes[-1].attribute.extend(conv.attribute)
    _put(model, conv, [*nodes, *_sum(outputs, conv)])


def _put(model: ModelProto, old: NodeProto, nodes: list[NodeProto]) -> None:
    """Put nodes into the place of one."""
    at = list(model.graph.node).index(old)
    model.graph.node.remove(old)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(at + offset, node)


def _is_pointwise(conv: NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    attributes = {item.name: helper.get_attribute_value(item) for item in conv.attribute}
    plain = all(value == 1 for key in ("strides", "dilations") for value in attributes.get(key, [])) and _groups(conv) == 1
    kernel = weights.get(conv.input[1])
    return plain and kernel is not None and list(kernel.dims[2:]) == [1, 1] and not any(attributes.get("pads", []))


def _joins_channels(node: NodeProto) -> bool:
    axis = next((item.i for item in node.attribute if item.name == "axis"), None)
    return node.op_type == "Concat" and axis in (1, -3) and len(node.input) > 1


def _source(
    name: str, channels: int, makers: dict[str, NodeProto], weights: dict[str, onnx.TensorProto], users: dict[str, int]
) -> tuple[str, NodeProto | None]:
    """(tensor before the upsampling, its Resize); (the tensor itself, None) where nothing can be moved."""
    node = makers.get(name)
    if node is None or node.op_type != "Resize" or users[name] > 1:
        return name, None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    size = numpy_helper.to_array(weights[node.input[3]]) if len(node.input) == 4 and node.input[3] in weights else np.zeros(0)
    # A crop pads with a constant, other "axes" than all or another channel count would make the size of a part wrong.
    plain = attributes.get("coordinate_transformation_mode") != b"tf_crop_and_resize" and "axes" not in attributes
    movable = attributes.get("mode") == b"linear" and plain and len(size) == 4 and size[1] == channels
    return (node.input[0], node) if movable else (name, None)


def _replace(
    model: ModelProto,
    conv: NodeProto,
    channels: list[int],
    sources: list[tuple[str, NodeProto | None]],
    weights: dict[str, onnx.TensorProto],
) -> None:
    kernel = numpy_helper.to_array(weights[conv.input[1]])
    bias = conv.input[2] if len(conv.input) > 2 else ""
    nodes, parts, start = [], [], 0
    for index, ((source, resize), width) in enumerate(zip(sources, channels, strict=True)):
        name = f"{conv.output[0]}_part{index}"
        part = numpy_helper.from_array(np.ascontiguousarray(kernel[:, start : start + width]), f"{conv.input[1]}_part{index}")
        model.graph.initializer.append(part)
        inputs = [source, part.name, *([bias] if bias and index == 0 else [])]
        nodes.append(helper.make_node("Conv", inputs, [name], f"{conv.name}_part{index}", kernel_shape=[1, 1]))
        if resize is not None:
            nodes.append(_resized(model, resize, name, len(kernel), weights))
            name = nodes[-1].output[0]
        parts.append(name)
        start += width
    _put(model, conv, [*nodes, *_sum(parts, conv)])


def _channels(model: ModelProto, concat: NodeProto) -> list[int]:
    """Channels of each input of a Concat of (N, C, H, W) maps; 0 where they are not known."""
    shapes = {item.name: item.type.tensor_type.shape.dim for item in [*model.graph.value_info, *model.graph.input]}
    return [shapes[name][1].dim_value if len(shapes.get(name, ())) == 4 else 0 for name in concat.input]


def _resized(model: ModelProto, resize: NodeProto, name: str, channels: int, weights: dict[str, onnx.TensorProto]) -> NodeProto:
    """The Resize of one part: as the old one, for another number of channels."""
    size = numpy_helper.to_array(weights[resize.input[3]]).copy()
    size[1] = channels
    model.graph.initializer.append(numpy_helper.from_array(size, f"{name}_size"))
    node = helper.make_node("Resize", [name, "", "", f"{name}_size"], [f"{name}_resized"], f"{resize.name}_{name}")
    node.attribute.extend(resize.attribute)
    return node


def _sum(parts: list[str], conv: NodeProto) -> list[NodeProto]:
    """A chain of Adds from ``parts`` to the convolution's output."""
    nodes, total = [], parts[0]
    for index, part in enumerate(parts[1:], start=1):
        output = conv.output[0] if index == len(parts) - 1 else f"{conv.output[0]}_sum{index}"
        nodes.append(helper.make_node("Add", [total, part], [output], f"{conv.name}_add{index}"))
        total = output
    return nodes


def _count_users(model: ModelProto) -> dict[str, int]:
    users: dict[str, int] = {item.name: 1 for item in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    return users


def _drop_unused(model: ModelProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    while True:
        used = set(_count_users(model))
        dead = [node for node in model.graph.node if not used & set(node.output)]
        if not dead:
            break
        for node in dead:
            model.graph.node.remove(node)
    for item in [item for item in model.graph.initializer if item.name not in used]:
        model.graph.initializer.remove(item)
