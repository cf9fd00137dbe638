"""Thresholds that a report is signed on: each condition that must not hold, what was measured, and PASSED or FAILED."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segc.validate.fail_if import parse_condition, quantities


def judged(thresholds: Sequence[str], result: dict[str, Any]) -> list[dict[str, Any]]:
    """One line a threshold: the condition that fails it, the measured quantities it names, whether it passed.

    Args:
        thresholds: conditions as ``segc validate --fail-if`` takes them.
        result: a stored validation.

    Raises:
        UserError: a condition that is none, or names what the result does not hold.
    """
    values = quantities(result)
    lines = []
    for text in thresholds:
        condition = parse_condition(text)
        condition.check(values)
        failed = condition.holds(values)
        lines.append({"fails_if": text, "measured": {name: values[name] for name in sorted(condition.names)}, "passed": not failed})
    return lines
