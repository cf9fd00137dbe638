"""The errors a user can cause, told apart from the errors we cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: one sentence, and the command or change that mends it.

    The command line prints it without a traceback and ends with exit code 2.

    Args:
        message: names the thing, the value found and what was expected.
        fix: what to type or change; empty when the message already says it.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class CheckFailed(Exception):
    """A check ran to its end and its verdict is no (exit code 1): the work is sound, the answer is not."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or the list of names when none is close.

    >>> nearest("batchsize", ["batch_size", "device"])
    " Did you mean 'batch_size'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(names)}."


def missing_extra(module: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed; ``extra`` is the name in pyproject.toml."""
    return UserError(f"{purpose} needs the Python package {module!r}, which is not installed.", f"pip install 'segc[{extra}]'")
