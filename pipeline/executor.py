"""Where trials run: one after the other in this process, or as Ray tasks on this machine or a cluster. The results are the same."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from segc.core.errors import UserError, missing_extra

# Threads of one trial, wherever it runs: a runtime may sum in another order with another number of threads.
TRIAL_THREADS = 2

Job = tuple[Any, ...]


class Executor(Protocol):
    """Runs jobs; ``name`` says where."""

    name: str

    def run(self, function: Callable[..., Any], jobs: Sequence[Job], shared: Job) -> Iterator[tuple[int, Any]]:
        """Yield (index of the job, ``function(*job, *shared)``) as they end; ``shared`` is sent once. Errors are raised as they were."""

    def close(self) -> None:
        """Give back what was started; the next ``run`` starts it again."""


class InProcess:
    """One job after the other."""

    name = "in-process"

    def run(self, function: Callable[..., Any], jobs: Sequence[Job], shared: Job) -> Iterator[tuple[int, Any]]:
        """See ``Executor``."""
        for index, job in enumerate(jobs):
            yield index, function(*job, *shared)

    def close(self) -> None:
        """Nothing was started."""


class RayTasks:
    """Ray tasks, started at the first run.

    Ray pickles what it sends: a cluster is trusted with this process, and this process with the cluster.

    Args:
        address: of a cluster, whose machines have segc installed and the dataset at the same path; None starts Ray on this machine.
    """

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def run(self, function: Callable[..., Any], jobs: Sequence[Job], shared: Job) -> Iterator[tuple[int, Any]]:
        """See ``Executor``.

        Raises:
            UserError: no cluster answers at the address.
        """
        if not jobs:
            return
        ray = self._started()
        cores = min(TRIAL_THREADS, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=cores, max_retries=1)(function)
        sent = [ray.put(item) for item in shared]
        waiting = {task.remote(*job, *sent): index for index, job in enumerate(jobs)}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(ready[0]), _result(ray, ready[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster, or end the Ray of this process."""
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()

    def _started(self) -> Any:
        import ray

        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            embedded = {"include_dashboard": False} if self.address is None else {}
            try:
                ray.init(address=self.address or "local", log_to_driver=False, logging_level="ERROR", **embedded)
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).splitlines()[0]
                raise UserError(f"no Ray cluster at {self.address or 'this machine'}: {first}", "Or run here: --no-ray") from error
        return ray


def make_executor(use_ray: bool | None, address: str | None) -> Executor:
    """The executor that was asked for: Ray where it is installed, unless ``use_ray`` is False.

    Raises:
        UserError: Ray was asked for and is not installed, or an address was given together with ``use_ray`` False.
    """
    if use_ray is False and address is not None:
        raise UserError(f"--ray-address {address} with --no-ray.", "Give one of them.")
    installed = importlib.util.find_spec("ray") is not None
    if not installed and (use_ray or address is not None):
        raise missing_extra("ray", "search", "running trials as Ray tasks")
    return RayTasks(address) if installed and use_ray is not False else InProcess()


def _result(ray: Any, reference: Any) -> Any:
    """The value of a finished task; the error it ended with as it was raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
