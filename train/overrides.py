"""``KEY=VALUE`` on the command line, parsed as mmengine parses it: numbers, booleans, None, lists in brackets, else a string."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from segc.core.errors import UserError


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[x,2]"]`` -> ``{"a.b": 1, "c": ["x", 2]}``.

    Raises:
        UserError: a text without ``=`` or with unbalanced brackets.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r} is not KEY=VALUE.", "Example: -o train_cfg.max_iters=100")
        found[key] = _value(text, value)
    return found


def _value(text: str, value: str) -> Any:
    from mmengine.config import DictAction

    try:
        return DictAction._parse_iterable(value)
    except AssertionError as error:
        raise UserError(f"override {text!r}: {error}.") from error
