"""^C as an interrupt, whatever the libraries make of it.

Raised inside an import, a KeyboardInterrupt becomes an ImportError in one library, is swallowed by another, and ends the process from
C++ in a third: there it waits until the import is over. Raised inside a clean-up, it becomes another error: there it is looked for.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_S = 0.02
_IMPORTER = "<frozen importlib._bootstrap>"


@contextmanager
def interrupts_outside_imports() -> Iterator[None]:
    """Raise KeyboardInterrupt at ^C as Python does, but never inside an import. Only the main thread can: elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def became_of_interrupt(error: BaseException | None) -> bool:
    """True for ^C, and for an error that was raised while ^C was being handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _imports(frame):
        raise KeyboardInterrupt
    again = threading.Timer(_AGAIN_S, signal.raise_signal, [number])
    again.daemon = True
    again.start()


def _imports(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != _IMPORTER:
        frame = frame.f_back
    return frame is not None
