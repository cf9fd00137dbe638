"""Which nodes become int8, with the reason for each that does not."""

from __future__ import annotations

from onnx import helper
from smallnet import small_model

from segc.compress.placement import (
    REASON_AFTER,
    REASON_BEFORE,
    REASON_BROKEN,
    REASON_FLOAT,
    REASON_INTERPOLATED,
    REASON_LOGITS,
    REASON_UPSAMPLED,
    REASON_USER,
    activations_of,
    place,
)  # fmt: skip


def insert(model, at: str, *nodes) -> None:
    index = [node.name for node in model.graph.node].index(at)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


def rewire(model, name: str, old: str, new: str) -> None:
    node = next(node for node in model.graph.node if node.name == name)
    node.input[list(node.input).index(old)] = new


def test_residual_and_head_are_int8_and_the_logits_are_not() -> None:
    placement = place(small_model())
    assert placement.quantized == ["stem", "inner", "residual", "down"]
    assert placement.kept == {
        "up": REASON_INTERPOLATED, "joined": REASON_UPSAMPLED, "mix": REASON_UPSAMPLED, "classify": REASON_LOGITS, "argmax": REASON_FLOAT
    }  # fmt: skip


def test_a_resize_that_only_repeats_pixels_is_int8() -> None:
    model = small_model()
    resize = next(node for node in model.graph.node if node.name == "up")
    next(item for item in resize.attribute if item.name == "mode").s = b"nearest"
    assert "up" in place(model).quantized


def test_without_chains_only_weighted_nodes() -> None:
    placement = place(small_model(), chains=False)
    assert placement.quantized == ["stem", "inner", "down"]
    assert placement.kept["residual"] == REASON_BROKEN and placement.kept["up"] == REASON_INTERPOLATED


def test_before_the_first_weighted_node() -> None:
    model = small_model()
    insert(model, "stem", helper.make_node("Relu", ["scaled"], ["clipped"], "clip_pixels"))
    rewire(model, "stem", "scaled", "clipped")
    assert place(model).kept["clip_pixels"] == REASON_BEFORE
    assert "stem" in place(model).quantized


def test_after_the_logits() -> None:
    model = small_model()
    insert(model, "argmax", helper.make_node("Resize", ["classify", "", "", "size"], ["bigger"], "enlarge", mode="linear"))
    rewire(model, "argmax", "classify", "bigger")
    placement = place(model)
    assert placement.kept["enlarge"] == REASON_AFTER and placement.kept["classify"] == REASON_LOGITS


def test_an_add_of_a_float_tensor_stays_and_so_does_what_follows() -> None:
    model = small_model()
    insert(model, "residual", helper.make_node("Sigmoid", ["stem"], ["gate"], "gate"))
    rewire(model, "residual", "stem", "gate")
    placement = place(model)
    assert placement.kept["gate"] == REASON_FLOAT
    assert placement.kept["residual"] == REASON_BROKEN
    assert "down" in placement.quantized


def test_kept_by_name_breaks_its_chain() -> None:
    placement = place(small_model(), frozenset({"inner"}))
    assert placement.kept["inner"] == REASON_USER and placement.kept["residual"] == REASON_BROKEN


def test_an_add_of_a_constant_is_a_chain() -> None:
    model = small_model()
    insert(model, "residual", helper.make_node("Add", ["inner", "offset"], ["moved"], "offset_add"))
    model.graph.initializer.append(helper.make_tensor("offset", 1, [1], [0.5]))
    rewire(model, "residual", "inner", "moved")
    assert "offset_add" in place(model).quantized


def test_every_eligible_node_is_either_placed_or_explained() -> None:
    model = small_model()
    placement = place(model, frozenset({"mix"}))
    assert not set(placement.quantized) & set(placement.kept) and all(placement.kept.values())
    others = {"cast", "transpose", "sub", "div", "narrow"}
    assert set(placement.quantized) | set(placement.kept) | others == {node.name for node in model.graph.node}


def test_what_a_node_reads_as_values() -> None:
    assert activations_of(helper.make_node("Resize", ["x", "", "", "size"], ["y"])) == ["x"]
    assert activations_of(helper.make_node("Clip", ["x", "low", "high"], ["y"])) == ["x"]
    assert activations_of(helper.make_node("Add", ["a", "b"], ["y"])) == ["a", "b"]


def test_a_convolution_of_concatenated_maps_of_one_size_is_int8() -> None:
    model = small_model()
    next(node for node in model.graph.node if node.name == "joined").input[1] = "inner"
    assert {"joined", "mix"} <= set(place(model).quantized)
