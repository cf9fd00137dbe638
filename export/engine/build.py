"""Build an engine from an ONNX file: in a worker process that ends at ^C, with its progress shown and its errors told in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segc.core.errors import CheckFailed
from segc.export.engine.faults import explain
from segc.export.engine.progress import show
from segc.export.engine.worker import Done, Job

_WORKER = "segc.export.engine.worker"


def run_job(job: Job, title: str, timeout_s: float) -> Done:
    """Run a job in a process of its own and wait for it.

    Args:
        title: of the library, for messages.
        timeout_s: seconds after which the process is ended.

    Raises:
        UserError: what the user or the machine can mend (driver, workspace, plugin library).
        CheckFailed: the library refuses the graph, gives no engine, its process ends, or the time is over.
        KeyboardInterrupt: ^C; the process has ended then.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        told, code, stderr, late = _run(path, timeout_s)
    name = Path(job.graph).name
    if late:
        raise CheckFailed(f"{title} did not build {name} within {timeout_s:g} s.")
    if told is None:
        last = [line for line in stderr.splitlines() if line.strip()][-3:]
        raise CheckFailed(f"{title} ended its process at {name} (code {code}): {' | '.join(last)}")
    done = Done(**told)
    if done.errors:
        raise explain(done.errors, title, name, job)
    return done


def _run(path: Path, timeout_s: float) -> tuple[dict[str, Any] | None, int, str, bool]:
    """(the worker's last word or None, its exit code, its stderr, whether it was ended for the time)."""
    late = threading.Event()
    with tempfile.TemporaryFile("w+") as stderr, _process(path, stderr) as process:
        timer = threading.Timer(timeout_s, _end, (process, late))
        timer.daemon = True  # ^C may come before the block that cancels it
        timer.start()
        try:
            told = show(_events(process))
            process.wait()
        finally:
            timer.cancel()
        stderr.seek(0)
        return told, process.returncode, stderr.read(), late.is_set()


def _end(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


@contextmanager
def _process(path: Path, stderr: Any) -> Iterator[subprocess.Popen[str]]:
    """The worker; it does not outlive the block. A session of its own keeps the terminal's ^C for us."""
    command = [sys.executable, "-m", _WORKER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The worker's JSON lines; what the library itself prints on stdout is passed over."""
    for line in process.stdout or ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield event
