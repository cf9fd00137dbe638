"""What every verb shares: ``--json``, ``--debug``, the verdict line, exit codes 0 (done), 1 (verdict no), 2 (user's mistake)."""

from __future__ import annotations

import functools
import inspect
import json as jsonlib
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from segc.cli.interrupt import became_of_interrupt, interrupts_outside_imports
from segc.core.errors import CheckFailed, UserError

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

INTERRUPTED = 130

BACKENDS = "onnxruntime, openvino, torch; on a GPU tensorrt, tensorrt_rtx, onnxruntime_cuda, onnxruntime_tensorrt."


@dataclass
class Outcome:
    """What a verb found.

    summary: one sentence for the verdict line. data: the JSON payload (numbers with units in the keys or as rows).
    view: rich renderables (tables) shown before the verdict line. passed: False ends with exit code 1.
    """

    summary: str
    data: dict[str, Any] = field(default_factory=dict)
    view: list[Any] = field(default_factory=list)
    passed: bool = True


def verb(function: Callable[..., Outcome]) -> Callable[..., None]:
    """Make a typer command of a function that returns an ``Outcome``; adds ``--json`` and ``--debug`` to its options."""

    @functools.wraps(function)
    def command(*args: Any, json: bool = False, debug: bool = False, **kwargs: Any) -> None:
        start = time.perf_counter()
        try:
            with interrupts_outside_imports():
                outcome = function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            told = KeyboardInterrupt() if became_of_interrupt(error) else error
            if debug or not isinstance(told, UserError | CheckFailed | KeyboardInterrupt):
                raise
            raise typer.Exit(_report_error(told, json, start)) from None
        _print_outcome(outcome, json, start)
        raise typer.Exit(0 if outcome.passed else 1)

    command.__signature__ = _with_common_options(function)  # type: ignore[attr-defined]
    return command


def _with_common_options(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function, eval_str=True)
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("json", _JSON), ("debug", _DEBUG))
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *common])


def command_line() -> str:
    """The command as typed, quoted for a shell."""
    return shlex.join(["segc", *sys.argv[1:]])


def _report_error(error: BaseException, json: bool, start: float) -> int:
    if isinstance(error, KeyboardInterrupt):
        kind, code, text = "interrupted", INTERRUPTED, "nothing is half-written; give the same command again"
    elif isinstance(error, UserError):
        kind, code, text = "error", 2, str(error)
    else:
        kind, code, text = "failed", 1, str(error)
    if json:
        print(jsonlib.dumps({"verdict": kind, "error": text, "command": command_line(), "seconds": _seconds(start)}))
    print(f"{kind}: {text}", file=sys.stderr)
    return code


def _print_outcome(outcome: Outcome, json: bool, start: float) -> None:
    verdict = "passed" if outcome.passed else "failed"
    if json:
        envelope = {"verdict": verdict, "summary": outcome.summary, "command": command_line(), "seconds": _seconds(start)}
        print(jsonlib.dumps({**envelope, "data": outcome.data}, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    for part in outcome.view:
        console.print(part)
    colour = "green" if outcome.passed else "red"
    console.print(f"[bold {colour}]{verdict.upper()}[/] {outcome.summary}", highlight=False)
    console.print(f"[dim]{command_line()} | {_seconds(start):.1f} s[/]", highlight=False, soft_wrap=True)


def _seconds(start: float) -> float:
    return round(time.perf_counter() - start, 3)
