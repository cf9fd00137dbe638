"""The condition of --fail-if: its grammar against Python's own on the same sentences, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segc.core.errors import UserError
from segc.validate.fail_if import parse_condition, quantities, quantity_names

VALUES = {
    "mIoU": 60.0,
    "drop(mIoU)": 0.4,
    "upper(drop(mIoU))": 0.9,
    "lower(drop(mIoU))": -0.1,
    "class:traffic light": 50.0,
    "drop(class:traffic light)": -1.5,
    "drop(class:sky (day))": 2.0,
    "class:ghost": None,
}
PYTHON = {"mIoU": 60.0, "drop(mIoU)": 0.4, "upper(drop(mIoU))": 0.9, "drop(class:traffic light)": -1.5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drop(mIoU) > 0.5", False),
        ("upper(drop(mIoU))>.5", True),
        ("lower( drop( mIoU ) ) > 0", False),
        ("drop(class:traffic light) <= -1.5", True),
        ('drop(class:"sky (day)") > 1', True),
        ('class:"traffic light" < 5e1', False),
        ("not mIoU < 70", False),
        ("mIoU < 70 and not (drop(mIoU) > 1 or drop(mIoU) < 0)", True),
    ],
)
def test_conditions_are_judged(text: str, expected: bool) -> None:
    assert parse_condition(text).holds(VALUES) is expected


def sentences() -> st.SearchStrategy[str]:
    number = st.sampled_from(["0.4", "-2", "60", "1e-1", ".9"])
    comparison = st.tuples(st.sampled_from(list(PYTHON)), st.sampled_from([">", ">=", "<", "<="]), number).map(" ".join)
    return st.recursive(
        comparison,
        lambda inner: st.one_of(
            inner.map("not {}".format),
            inner.map("({})".format),
            st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        ),
        max_leaves=8,
    )


@given(sentences())
def test_and_or_not_and_brackets_bind_as_in_python(text: str) -> None:
    spelled = text
    for name in sorted(PYTHON, key=len, reverse=True):
        spelled = spelled.replace(name, str(PYTHON[name]))
    assert parse_condition(text).holds(VALUES) == eval(spelled)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a quantity such as drop.* at the end"),
        ("drop(mIoU)", "one of > >= < <= at the end"),
        ("drop(mIoU) > ", "a number at the end"),
        ("drop(mIoU) > mIoU", "a number at 'mIoU'"),
        ("drop(mIoU > 1", r"'\)' at '>' \(character 11\)"),
        ("drop(mIoU) > 1 drop(mIoU) > 2", "'and', 'or' or the end at 'drop'"),
        ("(mIoU > 1", r"'\)' at the end"),
        ("drop(drop(mIoU)) > 1", r"'\)' at '\('"),
        ("__import__('os') > 1", "at '_'"),
        ("mIoU > 1; mIoU", "at ';'"),
        ("mIoU == 1", "at '='"),
        ("(" * 50 + "mIoU > 1" + ")" * 50, "nested deeper"),
        ("not " * 3000, "at most 2000"),
    ],
)
def test_what_is_no_condition_is_refused_where_it_ends(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse_condition(text)


@given(st.text(alphabet='()<>=. "1edropupermIoUclass:andnot', max_size=40))
@example("class:")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_condition(text)
    except UserError as error:
        assert "--fail-if" in str(error)


def test_unknown_names_are_told_with_the_nearest() -> None:
    known = quantity_names(["person", "car"], compared=True, intervals=False)
    parse_condition("drop(class:person) > 1 or agreement < 90").check(known)
    for text, near in (
        ("drop(class:persn) > 1", r"drop\(class:person\)"),
        ("mIuo < 1", "mIoU"),
        ("upper(drop(mIoU)) > 1", r"drop\(mIoU\)"),
    ):
        with pytest.raises(UserError, match=f"which this validation does not measure. Did you mean '{near}'"):
            parse_condition(text).check(known)
    with pytest.raises(UserError, match="does not measure"):
        parse_condition("drop(mIoU) > 1").check(quantity_names(["person"], compared=False, intervals=False))


def test_a_quantity_without_a_value_does_not_pass() -> None:
    with pytest.raises(UserError, match="'class:ghost', which has no value"):
        parse_condition("mIoU > 1 or class:ghost < 10").holds(VALUES)


def test_quantities_of_a_result_are_those_named() -> None:
    rows = [{"metric": name, "value": 1.0} for name in ("mIoU", "mAcc", "aAcc", "pixel agreement")]
    rows += [{"metric": f"drop {name}", "value": 2.0, "ci_low": 1.5, "ci_high": 2.5} for name in ("mIoU", "mAcc", "aAcc")]
    per_class = [{"class": "car", "iou": 3.0, "drop": 4.0, "drop_low": 3.5, "drop_high": 4.5}]
    found = quantities({"rows": rows, "per_class": per_class, "against": {"target": "x"}})
    assert set(found) == set(quantity_names(["car"], compared=True, intervals=True))
    assert (found["lower(drop(mIoU))"], found["upper(drop(class:car))"], found["class:car"]) == (1.5, 4.5, 3.0)
