"""The tables of docs/quantization.md are what the stored rows say; the front is no more and no less than what nothing beats."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ptq_table import DOCUMENT, RESULTS, front, replaced, sentences, table
from segc.core.files import read_json

numbers = st.tuples(st.integers(0, 6), st.integers(-3, 3))


def test_the_tables_of_the_document_are_those_of_the_rows() -> None:
    """Between the marks stands nothing where no full run is stored."""
    document, stored = DOCUMENT.read_text(), read_json(RESULTS)["networks"] if RESULTS.exists() else {}
    assert replaced(document, stored) == document, "write them again: python -m benchmarks.ptq_table"


@given(st.dictionaries(st.sampled_from("abcdefgh"), numbers, min_size=1))
def test_the_front(places: dict[str, tuple[float, float]]) -> None:
    best = front(places)
    for name, (time, drop) in places.items():
        beaten = [o for o in places if places[o][0] <= time and places[o][1] <= drop and places[o] != (time, drop)]
        assert (name in best) is not bool(beaten)
    assert [places[name] for name in best] == sorted(places[name] for name in best)


def row(metric: str, graph: str, value: float, **more: float) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": "", "n": 9, "conditions": {"graph": graph, "backend": "ort"}, **more}


def rows(graph: str, time: float, drop: float) -> list[dict[str, Any]]:
    interval = {"ci_low": drop - 0.1, "ci_high": drop + 0.1}
    return [row("drop mIoU", graph, drop, **interval), row("pixel agreement", graph, 99.5), row("latency ratio", graph, time)]


def test_cells_and_sentences() -> None:
    failures = [{"graph": "ModelOpt", "backend": "", "reason": "not installed."}]
    found = {"rows": [*rows("segc a", 0.5, 0.2), *rows("segc b", 0.9, 0.3), *rows("NNCF", 0.6, 0.4)], "failures": failures}
    lines = table(found).splitlines()
    assert lines[2] == "| segc a | **0.20** [0.10, 0.30] | 99.50 | **0.50** |"
    assert lines[3] == "| segc b | 0.30 [0.20, 0.40] | 99.50 | 0.90 |" and lines[5] == "| ModelOpt | failed | - | - |"
    beaten = "On ort the front of time and drop is segc a, fp32; every graph of another library is beaten by one of ours."
    assert sentences(found) == [beaten, "ModelOpt failed: not installed."]
    found["rows"] += rows("Other", 0.4, 0.9)
    assert "Other: not beaten by any of ours" in sentences(found)[0]
