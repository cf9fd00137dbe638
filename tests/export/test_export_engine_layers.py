"""Layers, precisions, times and fp32 islands read from recorded outputs of TensorRT 8, 10 and RTX (data/README.md names their sources)."""

from __future__ import annotations

from pathlib import Path

import pytest

from segc.core.errors import CheckFailed, UserError
from segc.export.engine.layers import Layer, parse_layers
from segc.export.engine.proof import check_precision, rows, summary

DATA = Path(__file__).parent / "data"


def layers(name: str) -> list[Layer]:
    return parse_layers((DATA / name).read_text())


def test_tensorrt_8_says_type_and_layout_in_one_sentence() -> None:
    found = layers("inspector_tensorrt8.json")
    assert [layer.role for layer in found] == ["reformat", "matrix", "matrix", "matrix", "reformat"]
    assert [layer.precision for layer in found] == ["fp32", "int8", "int8", "int8", "fp16"]
    assert found[3].outputs[0].dtype == "fp16" and found[3].outputs[0].shape == (1, 24, 56, 56)


def test_tensorrt_10_names_the_onnx_nodes() -> None:
    reformat, convolution = layers("inspector_tensorrt10.json")
    assert (reformat.role, reformat.nodes) == ("reformat", ())
    assert convolution.precision == "int8" and convolution.nodes == ("resnetv15_stage2_conv1_fwd", "resnetv15_stage2_batchnorm1_fwd")


def test_the_log_of_tensorrt_10() -> None:
    product, norm = layers("log_tensorrt10.txt")
    assert (product.role, product.precision, norm.role, norm.precision) == ("matrix", "fp16", "other", "fp16")
    assert product.tactic.startswith("sm80_xmma_gemm_f16f16") and norm.nodes[1] == "/encoder/layers.0/pos_ff/layernorm/LayerNormalization"
    assert [tensor.shape for tensor in product.inputs] == [(1, 40, 1024)]


def test_the_log_of_rtx() -> None:
    found = layers("log_rtx.txt")
    told = [(layer.kind, layer.role, layer.precision) for layer in found]
    assert told == [
        ("kgen", "other", "int8"),
        ("runtime_function", "other", "int8"),
        ("correlation", "matrix", "int8"),
        ("signal", "none", ""),
        ("maxpool", "other", "int8"),
        ("runtime_fusion", "matrix", "fp32"),
    ]
    assert found[0].inputs[0].dtype == "uint8" and found[0].outputs[0].shape == (1, 3, 360, 480)
    assert found[2].outputs[0].dtype == "fp32" and found[2].outputs[0].layout == "(NHWC) Channel major format"
    assert len(found[5].inputs) == 4 and found[5].nodes[0] == "node_Conv_538"


def test_layers_are_counted_by_role_and_precision() -> None:
    found = summary(layers("inspector_tensorrt8.json"))
    assert found["layers"]["reformat"] == {"fp16": 1, "fp32": 1} and found["reformats"] == 2 and found["layers"]["matrix"] == {"int8": 3}
    table = rows(found, {"precision": "int8"})
    assert {row.unit for row in table} == {"layers"} and sum(row.value for row in table) == 5


def test_an_island_is_named_with_its_nodes() -> None:
    islands = summary(layers("log_rtx.txt"))["islands"]
    assert [item["layer"] for item in islands] == ["__myl_CorrAddAddAdd_myl0_61"] and "node_Conv_538" in islands[0]["nodes"]


def proof(**matrix: float) -> dict[str, object]:
    return {"layers": {"matrix": matrix}, "islands": [{"layer": "conv7", "nodes": []}]}


def test_an_engine_that_is_not_what_its_name_says_fails() -> None:
    with pytest.raises(CheckFailed, match=r"the fp16 engine does 75 % of its matrix work in fp32 .*conv7"):
        check_precision(proof(fp32=3, fp16=1), "fp16")
    with pytest.raises(CheckFailed, match="no convolution or matrix product in int8: 2 in fp32"):
        check_precision(proof(fp32=2), "int8")
    check_precision(proof(fp32=1, fp16=3), "fp16")
    check_precision(proof(fp32=9, int8=1), "int8")
    check_precision(proof(fp32=9), "fp32")


@pytest.mark.parametrize("text", ['{"Layers": ["conv1", "pool1"]}', '{"Bindings": []}', "no layers", '{"Layers": ['])
def test_what_lists_no_layers_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_layers(text)
