"""Conditions that fail a validation, as text: ``drop(mIoU) > 0.5 or upper(drop(class:person)) > 1``. Parsed here, never evaluated as code.

    condition  = every {"or" every}
    every      = one {"and" one}
    one        = "not" one | "(" condition ")" | quantity comparison number
    comparison = ">" | ">=" | "<" | "<="
    quantity   = score | "drop(" score ")" | "upper(drop(" score "))" | "lower(drop(" score "))"
    score      = "mIoU" | "mAcc" | "aAcc" | "boundary" | "band" | "small" | "class:" name | "agreement" (which has no drop)

Scores are in percent, drops in points of percent. ``class:person`` is that class's IoU; ``boundary``, ``band`` and ``small`` are the means
of ``segc.validate.places``; ``upper`` and ``lower`` are the ends of the drop's interval. A name with brackets or a comparison in it stands
in quotes: ``class:"sky (day)"``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from segc.core.errors import UserError, nearest
from segc.validate.bootstrap import MEANS
from segc.validate.details import PLACE_METRICS

Values = Mapping[str, float | None]
Test = Callable[[Mapping[str, float]], bool]

_LONGEST, _DEEPEST = 2000, 20
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<comparison>[<>]=?)
    | (?P<bracket>[()])
    | (?P<class>class:\s*(?:"[^"]*"|[^()"<>=]+))
    | (?P<word>[A-Za-z]\w*)
    )""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_EXAMPLE = 'For example: --fail-if "drop(mIoU) > 0.5 or drop(class:person) > 1"'


@dataclass(frozen=True)
class Condition:
    """A parsed condition: its text, the quantities it names, and the test of their values."""

    text: str
    names: frozenset[str]
    test: Test

    def check(self, known: Iterable[str]) -> None:
        """Raise ``UserError`` where a quantity is none of the ``known`` ones; the nearest is named."""
        known = list(known)
        for name in sorted(self.names.difference(known)):
            raise UserError(f"--fail-if names {name!r}, which this validation does not measure.{nearest(name, known)}", _EXAMPLE)

    def holds(self, values: Values) -> bool:
        """Whether the condition holds.

        Raises:
            UserError: a quantity it names has no value: what cannot be judged does not pass.
        """
        known = {name: value for name in sorted(self.names) if (value := values.get(name)) is not None}
        for name in sorted(self.names.difference(known)):
            raise UserError(f"--fail-if needs {name!r}, which has no value here: too few images, or the class is in none of them.")
        return self.test(known)


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        UserError: not of the grammar above; the place is named.
    """
    if len(text) > _LONGEST:
        raise UserError(f"--fail-if has {len(text)} characters, at most {_LONGEST} are read.")
    parser = _Parser(text)
    test = parser.condition(0)
    if parser.kind:
        raise parser.error("'and', 'or' or the end")
    return Condition(text, frozenset(parser.names), test)


def quantity_names(classes: Iterable[str], compared: bool, intervals: bool, places: bool = False) -> list[str]:
    """The quantities that a validation of these classes has: alone, against another artefact, with intervals, with places."""
    scores = [*MEANS, *(PLACE_METRICS if places else ()), *(f"class:{name}" for name in classes)]
    if not compared:
        return scores
    drops = [f"drop({score})" for score in scores]
    ends = [f"{end}({drop})" for end in ("lower", "upper") for drop in drops] if intervals else []
    return [*scores, "agreement", *drops, *ends]


def quantities(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Their values in a stored validation result; None for a class without a score."""
    rows = {row["metric"]: row for row in result["rows"]}
    means = {name: metric for name, metric in {**dict(zip(MEANS, MEANS, strict=True)), **PLACE_METRICS}.items() if metric in rows}
    found: dict[str, float | None] = {name: rows[metric]["value"] for name, metric in means.items()}
    if result["against"]:
        found["agreement"] = rows["pixel agreement"]["value"]
    drops = [(name, rows[f"drop {metric}"], "value", "ci_low", "ci_high") for name, metric in means.items() if f"drop {metric}" in rows]
    for row in result["per_class"]:
        found[f"class:{row['class']}"] = row["iou"]
        drops.append((f"class:{row['class']}", row, "drop", "drop_low", "drop_high"))
    for name, row, *keys in drops:
        for pattern, key in zip(("drop({})", "lower(drop({}))", "upper(drop({}))"), keys, strict=True):
            if key in row:
                found[pattern.format(name)] = row[key]
    return found


class _Parser:
    """Recursive descent over the tokens; ``kind`` and ``token`` are the next one, '' at the end."""

    def __init__(self, text: str) -> None:
        self.text, self.end = text, 0
        self.names: set[str] = set()
        self.advance()

    def advance(self) -> str:
        """Step to the next token; returns the one left behind."""
        left = getattr(self, "token", "")
        rest = self.text[self.end :].strip()
        found = _TOKEN.match(self.text, self.end)
        self.start = len(self.text.rstrip()) - len(rest)
        self.kind, self.token = "", rest[:1]
        if found is not None:
            self.kind, self.end = str(found.lastgroup), found.end()
            self.token = found[self.kind].strip()
        elif rest:
            raise self.error("a quantity, a comparison, a number or a bracket")
        return left

    def error(self, expected: str) -> UserError:
        """What was expected where."""
        at = f"{self.token!r}" if self.token else "the end"
        return UserError(f"--fail-if {self.text!r}: expected {expected} at {at} (character {self.start + 1}).", _EXAMPLE)

    def take(self, token: str) -> bool:
        """Step over ``token`` if it is next."""
        if self.token != token:
            return False
        self.advance()
        return True

    def need(self, token: str) -> None:
        """Step over ``token``."""
        if not self.take(token):
            raise self.error(f"{token!r}")

    def condition(self, depth: int) -> Test:
        """Terms joined by ``or``."""
        terms = [self.every(depth)]
        while self.take("or"):
            terms.append(self.every(depth))
        return lambda values: any(term(values) for term in terms)

    def every(self, depth: int) -> Test:
        """Terms joined by ``and``."""
        terms = [self.one(depth)]
        while self.take("and"):
            terms.append(self.one(depth))
        return lambda values: all(term(values) for term in terms)

    def one(self, depth: int) -> Test:
        """A negation, a condition in brackets or a comparison."""
        if depth > _DEEPEST:
            raise UserError(f"--fail-if is nested deeper than {_DEEPEST}.")
        if self.take("not"):
            inner = self.one(depth + 1)
            return lambda values: not inner(values)
        if self.take("("):
            inner = self.condition(depth + 1)
            self.need(")")
            return inner
        return self.comparison()

    def comparison(self) -> Test:
        """A quantity against a number."""
        name = self.quantity(("upper", "lower", "drop"))
        self.names.add(name)
        if self.kind != "comparison":
            raise self.error("one of > >= < <=")
        compare = _COMPARE[self.advance()]
        if self.kind != "number":
            raise self.error("a number")
        limit = float(self.advance())
        return lambda values: compare(values[name], limit)

    def quantity(self, functions: tuple[str, ...]) -> str:
        """A score, or one of ``functions`` of a quantity, as ``quantity_names`` spells it."""
        if self.kind == "class":
            return "class:" + self.advance().partition(":")[2].strip().strip('"')
        if self.kind != "word":
            raise self.error("a quantity such as drop(mIoU)")
        word = self.advance()
        if word not in functions:
            return word
        self.need("(")
        inner = self.quantity(() if word == "drop" else ("drop",))
        self.need(")")
        return f"{word}({inner})"
