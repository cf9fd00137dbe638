"""Rules that turn one naming of a network's tensors into another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(name: str, rules: Iterable[Rule], once: bool = False) -> str:
    """A name after every rule (pattern, replacement) in turn, as ``re.sub`` takes them; with ``once`` after the first that matches."""
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if once and count:
            break
    return name
