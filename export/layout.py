"""Exact rewrites that remove or cheapen what moves data: idle resizes, transposes, the scaling of the image, global means."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from segc.export.surgery import View, add_constant, drop_unused, put, replace_input
from segc.ops.onnx_functions.library import attributes


def drop_idle_resizes(model: ModelProto) -> int:
    """Remove every Resize to the size that its input has already, in place; returns how many.

    Interpolation at scale 1 reads each pixel itself in all coordinate modes but ``tf_crop_and_resize``. All-MLP heads bring four maps
    to the size of the first, which has it.
    """
    view = View(model)
    idle = [node for node in model.graph.node if node.op_type == "Resize" and _is_idle(node, view)]
    outputs = {item.name for item in model.graph.output}
    for node in idle:
        if node.output[0] not in outputs:
            replace_input(model, node.output[0], node.input[0])
    drop_unused(model)
    return len(idle)


def _is_idle(node: NodeProto, view: View) -> bool:
    before, after = view.shape(node.input[0]), view.shape(node.output[0])
    return bool(before) and before == after and attributes(node).get("coordinate_transformation_mode") != b"tf_crop_and_resize"


def tokens_as_maps(model: ModelProto) -> int:
    """Let transposes between tokens (N, L, C) and maps (N, C, H, W) work on four axes, in place; returns how many were changed.

    ``Reshape(Transpose(x))`` of tokens equals ``Transpose(Reshape(x))`` with the map's axes (N, H, W, C) in between, and the same the
    other way. Runtimes that keep maps channels-last then have nothing to move.
    """
    view = View(model)
    changed = 0
    for node in list(model.graph.node):
        if node.op_type == "Reshape":
            changed += _to_map(model, node, view)
        elif node.op_type == "Transpose":
            changed += _to_tokens(model, node, view)
    drop_unused(model)
    return changed


def _to_map(model: ModelProto, reshape: NodeProto, view: View) -> bool:
    transpose = view.maker(reshape.input[0], "Transpose")
    tokens, maps = view.shape(transpose.input[0]) if transpose else [], view.shape(reshape.output[0])
    if transpose is None or _perm(transpose) != [0, 2, 1] or len(tokens) != 3 or len(maps) != 4:
        return False
    if view.users[transpose.output[0]] > 1 or [tokens[0], tokens[2]] != maps[:2]:
        return False
    batch, channels, height, width = maps
    size = add_constant(model, f"{reshape.output[0]}_nhwc_size", np.array([batch, height, width, channels], np.int64))
    nhwc = f"{reshape.output[0]}_nhwc"
    put(
        model,
        reshape,
        [
            helper.make_node("Reshape", [transpose.input[0], size], [nhwc], f"{reshape.name}_nhwc"),
            helper.make_node("Transpose", [nhwc], [reshape.output[0]], f"{reshape.name}_nchw", perm=[0, 3, 1, 2]),
        ],
    )
    return True


def _to_tokens(model: ModelProto, transpose: NodeProto, view: View) -> bool:
    reshape = view.maker(transpose.input[0], "Reshape")
    maps, tokens = view.shape(reshape.input[0]) if reshape else [], view.shape(transpose.output[0])
    if reshape is None or _perm(transpose) != [0, 2, 1] or len(tokens) != 3 or len(maps) != 4:
        return False
    if view.users[reshape.output[0]] > 1 or maps[:2] != [tokens[0], tokens[2]]:
        return False
    size = add_constant(model, f"{transpose.output[0]}_size", np.array(tokens, np.int64))
    nhwc = f"{transpose.output[0]}_nhwc"
    put(
        model,
        transpose,
        [
            helper.make_node("Transpose", [reshape.input[0]], [nhwc], f"{transpose.name}_nhwc", perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [nhwc, size], [transpose.output[0]], f"{transpose.name}_tokens"),
        ],
    )
    return True


def _perm(transpose: NodeProto) -> list[int]:
    return list(attributes(transpose).get("perm", []))


def fold_image_scale(model: ModelProto) -> int:
    """Move the division by the standard deviation into the first convolution's weights, in place; returns how many divisions went.

    Exact up to rounding, at the borders too: the padding is zero before and after a scaling. (Folding the mean would not be: there the
    padding stands for the mean.) The image's values are then grey levels minus the mean, which int8 represents almost without error.
    """
    view = View(model)
    folded = 0
    for conv in [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in view.constants]:
        divide = view.maker(conv.input[0], "Div")
        scale = view.value(divide.input[1]) if divide else None
        weight = view.value(conv.input[1])
        if divide is None or scale is None or weight is None or view.users[divide.output[0]] > 1 or attributes(conv).get("group", 1) != 1:
            continue
        if scale.size != weight.shape[1] or scale.shape != (1, scale.size, 1, 1):
            continue
        folded_weight = (weight.astype(np.float64) / scale).astype(np.float32)
        conv.input[1] = add_constant(model, f"{conv.input[1]}_scaled", folded_weight)
        conv.input[0] = divide.input[0]
        folded += 1
    drop_unused(model)
    return folded


def pool_globally(model: ModelProto) -> int:
    """Write a ReduceMean over height and width as GlobalAveragePool, in place; returns how many. Runtimes have fast kernels for that."""
    view = View(model)
    found = [node for node in model.graph.node if node.op_type == "ReduceMean" and _is_global_mean(node, view)]
    for node in found:
        put(model, node, [helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), node.name)])
    drop_unused(model)
    return len(found)


def _is_global_mean(node: NodeProto, view: View) -> bool:
    given = attributes(node)
    axes = view.value(node.input[1]) if len(node.input) > 1 else given.get("axes")
    over = sorted(int(axis) % 4 for axis in axes) if axes is not None else []
    return view.rank(node.input[0]) == 4 and over == [2, 3] and bool(given.get("keepdims", 1))
