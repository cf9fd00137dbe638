"""Exact rewrites of convolutions that read upsampled maps: cheaper, and quantizable in every runtime. The graph is checked after them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from segc.export.surgery import View, add_constant, drop_unused, put
from segc.ops.onnx_functions.library import attributes


def push_pointwise_through_resize(model: ModelProto) -> int:
    """Run a 1x1 convolution of concatenated, upsampled maps before the upsampling, in place; returns how many were moved.

    ``Conv1x1(Concat(Resize(x_i)))`` equals ``Sum(Resize(Conv1x1_i(x_i)))``, because linear interpolation and a pointwise convolution
    act on different axes and the interpolation weights of a pixel sum to one (so that the bias may be added once). SegFormer's
    and SegNeXt's all-MLP heads spend most of their multiplications there: at 512x512 B0's fusion layer shrinks to a third.
    """
    view = View(model)
    moved = 0
    for conv, concat, channels in list(_behind_concat(model, view)):
        sources = [_source(name, count, view) for name, count in zip(concat.input, channels, strict=True)]
        if _is_pointwise(conv, view) and any(resize is not None for _, resize in sources):
            _replace(model, conv, channels, sources, view)
            moved += 1
    drop_unused(model)
    return moved


def split_behind_upsampling(model: ModelProto) -> int:
    """Split a convolution of concatenated maps, some of them upsampled, into one for each map, in place.

    ``Conv(Concat(a, Resize(b)))`` equals ``Conv_a(a) + Conv_b(Resize(b))``: the same multiplications and an Add for each further map. Where
    each channel has a filter of its own, it equals ``Concat(Conv_a(a), Conv_b(Resize(b)))``. Each part can then be quantized: OpenVINO
    computes an int8 convolution wrongly, or in fp32, when a Concat mixes upsampled maps into its input. A Concat that is left then is
    moved behind the activation, and the convolution that reads it is split in its turn.

    Returns:
        How many were split; other grouped convolutions and unknown channel counts stay.
    """
    split, joins = 0, set[str]()
    while True:
        view = View(model)
        found = next((item for item in _behind_concat(model, view) if item[1].output[0] in joins or _mixes_upsampled(item[1], view)), None)
        if found is None:
            return split
        joins.add(_split(model, *found, view))
        drop_unused(model)
        split += 1


def _mixes_upsampled(concat: NodeProto, view: View) -> bool:
    upsampled = [name for name in concat.input if view.maker(name, "Resize")]
    return 0 < len(upsampled) < len(concat.input)


def shrink_constant_maps(model: ModelProto) -> int:
    """Run a convolution of a map that was upsampled from one pixel on a few pixels only, in place; returns how many were changed.

    Such a map is constant, so that away from the border every output pixel is the same: a map of (2r+1) x (2r+1) pixels, where r is
    the padding, holds all the values there are, and two Gathers spread them. The image pooling branch of DeepLab's ASPP is one.
    """
    view = View(model)
    changed = 0
    for conv in [node for node in model.graph.node if node.op_type == "Conv"]:
        resize = view.maker(conv.input[0], "Resize")
        reach = _reach(conv, view)
        if resize is None or reach is None or not _from_one_pixel(resize, view) or not view.shape(conv.output[0]):
            continue
        if min(view.shape(conv.output[0])[2:]) > 2 * reach + 1:
            _shrink(model, conv, resize, reach, view)
            changed += 1
    drop_unused(model)
    return changed


def _behind_concat(model: ModelProto, view: View) -> Iterator[tuple[NodeProto, NodeProto, list[int]]]:
    """(convolution, the channel-wise Concat that it alone reads, channels of each input): ungrouped and depthwise ones."""
    for conv in model.graph.node:
        concat = view.maker(conv.input[0], "Concat") if conv.op_type == "Conv" and conv.input[1] in view.constants else None
        if concat is None or attributes(concat).get("axis") not in (1, -3) or len(concat.input) < 2 or view.users[concat.output[0]] > 1:
            continue
        channels = [view.channels(name) for name in concat.input]
        if all(channels) and (_groups(conv) == 1 or _is_depthwise(conv, sum(channels), view)):
            yield conv, concat, channels


def _groups(conv: NodeProto) -> int:
    return int(attributes(conv).get("group", 1))


def _is_depthwise(conv: NodeProto, channels: int, view: View) -> bool:
    return _groups(conv) == channels and view.constants[conv.input[1]].dims[0] == channels


def _split(model: ModelProto, conv: NodeProto, concat: NodeProto, channels: list[int], view: View) -> str:
    """Replace ``conv`` by one convolution per input of the Concat; returns the tensor that joins or sums them."""
    depthwise = _groups(conv) > 1
    kernels = _parts(conv.input[1], channels, 0 if depthwise else 1, view)
    biases = _parts(conv.input[2], channels, 0, view) if depthwise and len(conv.input) > 2 else []
    nodes, outputs = [], []
    for number, (source, kernel) in enumerate(zip(concat.input, kernels, strict=True)):
        inputs = [source, add_constant(model, f"{conv.input[1]}_split{number}", kernel)]
        if biases:
            inputs.append(add_constant(model, f"{conv.input[2]}_split{number}", biases[number]))
        elif number == 0:
            inputs += conv.input[2:]
        outputs.append(f"{conv.output[0]}_split{number}")
        given = attributes(conv) | ({"group": channels[number]} if depthwise else {})
        nodes.append(helper.make_node("Conv", inputs, [outputs[-1]], f"{conv.name}_split{number}", **given))
    if not depthwise:
        put(model, conv, [*nodes, *_sum(outputs, conv)])
        return str(conv.output[0])
    return _join(model, conv, nodes, view)


def _join(model: ModelProto, conv: NodeProto, parts: list[NodeProto], view: View) -> str:
    """Put the parts and a Concat of them into the place of ``conv``; a Relu that alone reads it moves before the Concat."""
    readers = [node for node in model.graph.node if conv.output[0] in node.input]
    relu = readers[0] if view.users[conv.output[0]] == 1 and readers and readers[0].op_type == "Relu" else None
    outputs = [part.output[0] for part in parts]
    end = conv.output[0]
    if relu is not None:
        parts = [*parts, *(helper.make_node("Relu", [name], [f"{name}_relu"], f"{relu.name}_{name}") for name in outputs)]
        outputs, end = [f"{name}_relu" for name in outputs], relu.output[0]
        model.graph.node.remove(relu)
    put(model, conv, [*parts, helper.make_node("Concat", outputs, [end], f"{conv.name}_join", axis=1)])
    return str(end)


def _parts(name: str, channels: list[int], axis: int, view: View) -> list[NDArray[np.float32]]:
    """A constant cut at the borders of the Concat's inputs."""
    value = view.value(name)
    assert value is not None
    return [np.ascontiguousarray(part) for part in np.split(value, np.cumsum(channels)[:-1], axis=axis)]


def _is_pointwise(conv: NodeProto, view: View) -> bool:
    given = attributes(conv)
    plain = all(value == 1 for key in ("strides", "dilations") for value in given.get(key, [])) and _groups(conv) == 1
    return plain and list(view.constants[conv.input[1]].dims[2:]) == [1, 1] and not any(given.get("pads", []))


def _source(name: str, channels: int, view: View) -> tuple[str, NodeProto | None]:
    """(tensor before the upsampling, its Resize); (the tensor itself, None) where nothing can be moved."""
    node = view.maker(name, "Resize")
    if node is None or view.users[name] > 1:
        return name, None
    given = attributes(node)
    size = view.value(node.input[3]) if len(node.input) == 4 else None
    # A crop pads with a constant, other "axes" than all or another channel count would make the size of a part wrong.
    plain = given.get("coordinate_transformation_mode") != b"tf_crop_and_resize" and "axes" not in given
    movable = given.get("mode") == b"linear" and plain and size is not None and len(size) == 4 and size[1] == channels
    return (node.input[0], node) if movable else (name, None)


def _replace(model: ModelProto, conv: NodeProto, channels: list[int], sources: list[tuple[str, NodeProto | None]], view: View) -> None:
    """Put the sum of the parts into the place of ``conv``; full-size parts come last: runtimes fold an Add into the one before it."""
    bias = conv.input[2] if len(conv.input) > 2 else ""
    kernels = _parts(conv.input[1], channels, 1, view)
    nodes, small, full = [], [], []
    for index, ((source, resize), kernel) in enumerate(zip(sources, kernels, strict=True)):
        name = f"{conv.output[0]}_part{index}"
        inputs = [source, add_constant(model, f"{conv.input[1]}_part{index}", kernel), *([bias] if bias and index == 0 else [])]
        nodes.append(helper.make_node("Conv", inputs, [name], f"{conv.name}_part{index}", kernel_shape=[1, 1]))
        if resize is None:
            full.append(name)
        else:
            nodes.append(_resized(model, resize, name, len(kernel), view))
            small.append(nodes[-1].output[0])
    put(model, conv, [*nodes, *_sum([*small, *full], conv)])


def _resized(model: ModelProto, resize: NodeProto, name: str, channels: int, view: View) -> NodeProto:
    """The Resize of one part: as the old one, for another number of channels."""
    size = view.value(resize.input[3])
    assert size is not None
    wanted = add_constant(model, f"{name}_size", np.array([size[0], channels, *size[2:]], np.int64))
    return helper.make_node("Resize", [name, "", "", wanted], [f"{name}_resized"], f"{resize.name}_{name}", **attributes(resize))


def _sum(parts: list[str], conv: NodeProto) -> list[NodeProto]:
    """A chain of Adds from ``parts`` to the convolution's output."""
    nodes, total = [], parts[0]
    for index, part in enumerate(parts[1:], start=1):
        output = conv.output[0] if index == len(parts) - 1 else f"{conv.output[0]}_sum{index}"
        nodes.append(helper.make_node("Add", [total, part], [output], f"{conv.name}_add{index}"))
        total = output
    return nodes


def _reach(conv: NodeProto, view: View) -> int | None:
    """Pixels of padding on each side of a convolution that keeps the size of a map; None for others."""
    given = attributes(conv)
    kernel = view.constants.get(conv.input[1])
    pads, dilations = given.get("pads", [0] * 4), given.get("dilations", [1, 1])
    if kernel is None or len(kernel.dims) != 4 or any(stride != 1 for stride in given.get("strides", [])):
        return None
    spans = [dilation * (size - 1) for dilation, size in zip(dilations, kernel.dims[2:], strict=True)]
    return pads[0] if len(set(pads)) == 1 and spans == [2 * pads[0]] * 2 else None


def _from_one_pixel(resize: NodeProto, view: View) -> bool:
    return view.shape(resize.input[0])[2:] == [1, 1] and attributes(resize).get("coordinate_transformation_mode") != b"tf_crop_and_resize"


def _shrink(model: ModelProto, conv: NodeProto, resize: NodeProto, reach: int, view: View) -> None:
    side = 2 * reach + 1
    batch, channels, _, _ = view.shape(resize.input[0])
    name = conv.output[0]
    size = add_constant(model, f"{name}_small_size", np.array([batch, channels, side, side], np.int64))
    small, resized = f"{name}_small", f"{name}_small_in"
    nodes = [helper.make_node("Resize", [resize.input[0], "", "", size], [resized], f"{resize.name}_small", **attributes(resize))]
    nodes.append(helper.make_node("Conv", [resized, *conv.input[1:]], [small], conv.name, **attributes(conv)))
    source = small
    for axis in (3, 2):
        length = view.shape(name)[axis]
        index = np.concatenate([np.arange(reach), np.full(length - 2 * reach, reach), np.arange(reach + 1, side)])
        where = add_constant(model, f"{name}_where{axis}", index.astype(np.int64))
        output = name if axis == 2 else f"{name}_wide"
        nodes.append(helper.make_node("Gather", [source, where], [output], f"{conv.name}_spread{axis}", axis=axis))
        source = output
    put(model, conv, nodes)
