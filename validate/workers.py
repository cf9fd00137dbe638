"""The chunks of a validation shared out over processes of this machine, and over machines.

Every share is counted by the same function and kept in parts by content (``segc.validate.parts``). So one process or many, one host or
several, and an attempt that was killed give the same counts to the bit, and nothing has to be agreed on while they run: no ports, no
rendezvous, no torch. Class maps do not depend on the number of threads of a run, which a test holds for every backend.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from segc.core.errors import UserError
from segc.validate.parts import Chunk, Job, Parts, count_missing

_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th chunk, beginning with the one of this ``index``."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``K/N`` with K of 1..N, or ``env``: rank and world size as torchrun or SLURM set them.

        Raises:
            UserError: neither, or ``env`` where no launcher set them.
        """
        if text == "env":
            found = next(((os.environ[rank], os.environ[size]) for rank, size in _RANKS if {rank, size} <= os.environ.keys()), None)
            if found is None:
                raise UserError("--shard env: neither RANK and WORLD_SIZE nor SLURM's are set.", "Start it with torchrun or srun, or K/N.")
            text = f"{int(found[0]) + 1}/{found[1]}" if found[0].isdigit() else "/".join(found)
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"--shard {text}: expected K/N with K from 1 to N, such as 1/4.")
        return cls(int(index) - 1, int(count))

    def of(self, chunks: Sequence[int]) -> Sequence[int]:
        """Its chunks."""
        return chunks[self.index :: self.count]


def count_in_workers(job: Job, parts: Parts, chunks: Sequence[int], workers: int, threads: int) -> Iterator[Chunk | None]:
    """``count_missing`` in processes that share the threads; the same items, in the order in which they are ready.

    Raises:
        UserError: as ``count_missing``; or a worker was killed.
    """
    workers = min(workers, len(chunks))
    if workers <= 1:
        yield from count_missing(job, parts, chunks, threads)
        return
    context = multiprocessing.get_context("spawn")
    started: dict[Connection, Any] = {}
    try:
        for index in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            share = Shard(index, workers).of(chunks)
            started[ours] = context.Process(target=_work, args=(theirs, job, parts, share, max(1, threads // workers)), daemon=True)
            started[ours].start()
            theirs.close()
        yield from _items(started)
    finally:
        for process in started.values():
            process.kill()
            process.join()


def _items(workers: dict[Connection, Any]) -> Iterator[Chunk | None]:
    """What the workers send until each has said that it is done; its error where it sends one."""
    running = dict(workers)
    while running:
        for ready in wait(list(running)):
            assert isinstance(ready, Connection)
            try:
                found = ready.recv()
            except EOFError:
                code = running[ready].join() or running[ready].exitcode
                raise UserError(f"a worker of the validation ended by itself (exit code {code}).", "Give the same command again.") from None
            if isinstance(found, Exception):
                raise found
            if found == _DONE:
                del running[ready]
            else:
                yield found


_DONE = "done"


def _work(told: Connection, job: Job, parts: Parts, chunks: Sequence[int], threads: int) -> None:
    """A worker: ^C is the parent's to handle, and where the parent is killed the worker ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for item in count_missing(job, parts, chunks, threads):
            told.send(item)
        told.send(_DONE)
    except Exception as error:
        told.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
