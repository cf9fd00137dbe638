"""The contract against mmcv's own resize arithmetic; contradictions are refused; errors and rows."""

from __future__ import annotations

from typing import Any

import mmcv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from segc.core.contract import Contract, Inference, Resize
from segc.core.errors import UserError, missing_extra, nearest
from segc.core.rows import Row, environment

SIDE = st.integers(1, 4000)
GOOD: dict[str, Any] = {"classes": ["a"], "palette": [(0, 0, 0)], "height": None, "width": 4, "mean": (0, 0, 0), "std": (1, 1, 1)}


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SIDE)
def test_keep_ratio_is_mmcvs_rescale_size(height: int, width: int, box_h: int, box_w: int) -> None:
    expected = mmcv.rescale_size((width, height), (box_w, box_h))
    assert Resize(mode="keep_ratio", size=(box_h, box_w)).network_size(height, width) == expected[::-1]


def test_the_other_modes() -> None:
    assert Resize().network_size(7, 9) == (7, 9)
    assert Resize(mode="stretch", size=(3, 4)).network_size(7, 9) == (3, 4)
    assert Resize(multiple=32).network_size(64, 65) == (64, 96)
    assert Resize(mode="stretch", size=(64, 96), multiple=32).steps(10, 10) == [(64, 96)]


@pytest.mark.parametrize("wrong", [{"mode": "stretch"}, {"mode": "none", "size": (1, 1)}, {"mode": "sretch", "size": (1, 1)}, {"x": 1}])
def test_contradicting_resize_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Resize(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"mode": "slide"}, {"mode": "slide", "crop_size": (1, 1)}, {"mode": "whole", "crop_size": (1, 1), "stride": (1, 1)}]
)
def test_contradicting_inference_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Inference(**wrong)


def test_contract() -> None:
    contract = Contract(**GOOD)
    assert contract.static_size is None and contract.class_dtype == "uint8"
    assert Contract.model_validate_json(contract.model_dump_json()) == contract
    with pytest.raises(ValidationError, match="1 classes but 0 palette"):
        Contract(**{**GOOD, "palette": []})
    many = {"classes": list(map(str, range(257))), "palette": [(0, 0, 0)] * 257}
    assert Contract(**{**GOOD, **many, "height": 3}).class_dtype == "int32"


def test_nearest_names_one_or_all() -> None:
    assert nearest("batchsize", ["device", "batch_size"]) == " Did you mean 'batch_size'?"
    assert nearest("zzz", ["b", "a"]) == " Known: a, b."


def test_errors_read_as_sentences() -> None:
    assert str(UserError("It is wrong.")) == "It is wrong."
    assert str(missing_extra("openvino", "openvino", "this")).endswith("pip install 'segc[openvino]'")


def test_rows_are_strict_and_the_environment_is_json() -> None:
    import json
    import platform

    with pytest.raises(ValidationError):
        Row(metric="x", value=1.0, unit="ms", n=1, condition={})  # type: ignore[call-arg]
    told = json.loads(json.dumps(environment()))
    assert told["python"] == platform.python_version() and "numpy" in told["versions"]
