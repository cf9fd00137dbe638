"""Run stages in order, skip those whose inputs and outputs are unchanged, and go on where a killed run stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segc.core.errors import UserError, nearest
from segc.core.files import read_json, sha256_file, sha256_json, write_json

STATE_VERSION = 1
_RACY_S = 2.0


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    name: as in ``--from`` and ``--until``.
    run: does the work; its argument is True when an attempt with the same key was begun and not finished.
    inputs: JSON value of everything the outcome depends on: parameters and content hashes of what is read.
    outputs: JSON value with the content hashes of what was written; None in place of a hash that is missing never agrees.
    version: raise it when the stage's code starts to give another outcome for the same inputs.
    """

    name: str
    run: Callable[[bool], None]
    inputs: Callable[[], Any]
    outputs: Callable[[], dict[str, Any]]
    version: int = 1

    def key(self) -> str:
        """Content hash of the stage's inputs."""
        return sha256_json([self.name, self.version, self.inputs()])


@dataclass
class State:
    """``state.json``: the key and outputs of each finished stage, and the key of each stage that was begun."""

    path: Path
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> State:
        """The state of an earlier run, or an empty one; a state of another version is left aside.

        Raises:
            UserError: the file is damaged.
        """
        if not path.exists():
            return cls(path)
        data = read_json(path)
        if not isinstance(data, dict) or data.get("version") != STATE_VERSION:
            return cls(path)
        return cls(path, data["finished"], data["begun"])

    def write(self) -> None:
        """Write the file atomically."""
        write_json(self.path, {"version": STATE_VERSION, "finished": self.finished, "begun": self.begun})

    def forget(self, names: Iterable[str]) -> None:
        """Forget what is known of these stages."""
        for name in names:
            self.finished.pop(name, None)
            self.begun.pop(name, None)

    def is_done(self, stage: Stage, key: str) -> bool:
        """True when the stage finished with this key and its outputs are still what it wrote."""
        done = self.finished.get(stage.name)
        return done is not None and done["key"] == key and None not in done["outputs"].values() and done["outputs"] == stage.outputs()

    def begin(self, stage: Stage, key: str) -> bool:
        """Note that the stage begins; True when an unfinished attempt with the same key went before."""
        resume = self.begun.get(stage.name) == key
        self.finished.pop(stage.name, None)
        self.begun[stage.name] = key
        self.write()
        return resume

    def finish(self, stage: Stage, key: str, seconds: float) -> None:
        """Note that the stage is done."""
        self.begun.pop(stage.name, None)
        self.finished[stage.name] = {"key": key, "outputs": stage.outputs(), "seconds": round(seconds, 3)}
        self.write()


@dataclass(frozen=True)
class Done:
    """What became of a stage: ``status`` is ``run``, ``resumed`` or ``skipped``; ``seconds`` of this call."""

    stage: str
    status: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def tell_stderr(text: str) -> None:
    """Print a progress line on stderr."""
    print(text, file=sys.stderr, flush=True)


def run_stages(
    stages: Sequence[Stage],
    state_file: Path,
    *,
    fresh: bool = False,
    start: str | None = None,
    until: str | None = None,
    tell: Callable[[str], None] = tell_stderr,
) -> list[Done]:
    """Run ``stages`` in order; a stage is skipped when its key and the hashes of its outputs agree with ``state_file``.

    Args:
        fresh: forget all earlier work.
        start: run this stage and the later ones even when they are unchanged.
        until: stop after this stage.
        tell: receives a line for every stage.

    Raises:
        UserError: unknown stage name; and whatever a stage raises. The state then holds every stage finished before.
    """
    names = [stage.name for stage in stages]
    first, last = _position(names, start, "--from", len(names)), _position(names, until, "--until", len(names) - 1)
    state = State.read(state_file)
    state.forget(names if fresh else names[first:])
    return [_step(stage, state, tell) for stage in stages[: last + 1]]


def _position(names: list[str], name: str | None, option: str, default: int) -> int:
    if name is None:
        return default
    if name not in names:
        raise UserError(f"{option} {name!r} is no stage.{nearest(name, names)}", f"Stages in order: {', '.join(names)}.")
    return names.index(name)


def _step(stage: Stage, state: State, tell: Callable[[str], None]) -> Done:
    start = time.monotonic()
    key = stage.key()
    if state.is_done(stage, key):
        tell(f"{stage.name}: unchanged, skipped")
        return Done(stage.name, "skipped", time.monotonic() - start)
    resume = state.begin(stage, key)
    tell(f"{stage.name}: {'resuming' if resume else 'running'} ...")
    stage.run(resume)
    seconds = time.monotonic() - start
    state.finish(stage, key, seconds)
    tell(f"{stage.name}: done in {seconds:.1f} s")
    return Done(stage.name, "resumed" if resume else "run", seconds)


class Hashes:
    """Content hashes of files, remembered by size and modification time so that a large dataset is read once.

    A file modified within the last two seconds is not remembered: a second change could leave its time as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = read_json(path) if path.exists() else {}

    def file(self, path: Path) -> str | None:
        """SHA-256 of a file, None when it is missing."""
        if not path.is_file():
            return None
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path))
        if known and known[:2] == stamp:
            return str(known[2])
        digest = sha256_file(path)
        if time.time() - stat.st_mtime > _RACY_S:
            self._known[str(path)] = [*stamp, digest]
        return digest

    def files(self, paths: Iterable[Path]) -> str:
        """One hash over the names and contents of files, and the memory written."""
        digest = sha256_json([[path.name, self.file(path)] for path in paths])
        write_json(self.path, self._known)
        return digest
