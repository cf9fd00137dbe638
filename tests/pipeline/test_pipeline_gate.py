"""The choice and the gate on small cases."""

from __future__ import annotations

from segc.pipeline.gate import Candidate, choose, failures, worst

FAST_BUT_WRONG = Candidate("int8", "openvino", 55.0, 5.0, 10)
EXACT = Candidate("int8", "onnxruntime", 59.5, 8.0, 10)
FULL = Candidate("fp32", "openvino", 60.0, 20.0, 40)


def test_the_fastest_exact_candidate_is_chosen() -> None:
    assert choose([FAST_BUT_WRONG, EXACT, FULL], 60.0, 1.0) is EXACT
    assert choose([FAST_BUT_WRONG, EXACT, FULL], 60.0, 6.0) is FAST_BUT_WRONG
    assert choose([FAST_BUT_WRONG], 60.0, 1.0) is None


def test_gate() -> None:
    guesses = {"one_class": 4.0, "random": 3.0}
    assert worst([FAST_BUT_WRONG, EXACT, FULL]) == {"int8": 55.0, "fp32": 60.0}
    assert failures({"fp32": 60.0, "int8": 59.5}, guesses, 1.0, 10.0) == []
    assert "int8 loses 5.00 points" in failures({"fp32": 60.0, "int8": 55.0}, guesses, 1.0, 10.0)[0]
    assert "one_class baseline (4.00 %)" in failures({"fp32": 13.9, "int8": 13.9}, guesses, 1.0, 10.0)[0]
