"""What ``segc sensitivity`` and ``segc search`` share: from their options to attempts at one bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segc.cli.source import config_and_weights
from segc.core.errors import UserError, missing_extra
from segc.runtime.bundle import is_bundle, read_manifest
from segc.runtime.runner import choose, installed_backends

if TYPE_CHECKING:
    from segc.pipeline.attempts import Attempts
    from segc.pipeline.prepare import Prepared

Source = Annotated[str, typer.Argument(help="A bundle, a checkpoint with its config, or a config with --weights.")]
Weights = Annotated[Path | None, typer.Option(help="Checkpoint of the config.")]
Data = Annotated[Path | None, typer.Option(help="Dataset folder. Default: the one the bundle or the config names.")]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Folder of all that is written. Default: SOURCE-search beside a bundle or checkpoint, in work_dirs for a config."),
]
BackendName = Annotated[str | None, typer.Option(help="onnxruntime or openvino. Default: the bundle's preferred one, else onnxruntime.")]
Limit = Annotated[int | None, typer.Option(min=2, help="Only the first images.")]
Runs = Annotated[int, typer.Option(min=1, help="Timed runs of each graph.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the timed runs.")]
UseRay = Annotated[
    bool | None,
    typer.Option("--ray/--no-ray", help="Score graphs as Ray tasks, or one after the other. Default: Ray where installed."),
]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster to use; its machines need segc, and the dataset at the same path.")]


@dataclass(frozen=True)
class Options:
    """The options that both verbs take."""

    source: str
    weights: Path | None
    data: Path | None
    work_dir: Path | None
    backend: str | None
    limit: int | None
    runs: int
    threads: int | None
    ray: bool | None
    ray_address: str | None


@contextmanager
def open_attempts(options: Options) -> Iterator[tuple[Attempts, Prepared, Path]]:
    """(attempts at the source's bundle, the bundle and its recipe, the work folder); what was started for them ends with the block.

    Raises:
        UserError: options that do not go together, or see ``segc.pipeline.attempts.Attempts``.
    """
    try:
        from segc.pipeline.attempts import Attempts, without_leftovers
        from segc.pipeline.executor import make_executor
        from segc.pipeline.prepare import default_work
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train", "trying precisions") from error
    executor = make_executor(options.ray, options.ray_address)
    work = options.work_dir or default_work(options.source)
    with without_leftovers(work, executor):
        prepared = _prepared(options, work)
        backend = _backend(options.backend, prepared.bundle)
        attempts = Attempts(
            prepared.bundle, work, backend, executor, limit=options.limit, runs=options.runs, threads=options.threads
        )  # fmt: skip
        yield attempts, prepared, work


def _prepared(options: Options, work: Path) -> Prepared:
    from segc.pipeline.prepare import from_bundle, from_network

    if not is_bundle(options.source):
        return from_network(*config_and_weights(options.source, options.weights), options.data, work)
    for name, value in (("--weights", options.weights), ("--data", options.data)):
        if value is not None:
            raise UserError(f"{options.source} is a bundle, but {name} {value} was given.", f"Leave {name} out, or give the checkpoint.")
    return from_bundle(Path(options.source))


def _backend(named: str | None, bundle: Path) -> str:
    backend = named or choose(read_manifest(bundle), None, None)[1]
    able = installed_backends()
    if backend not in able:
        raise UserError(f"backend {backend!r} does not run graphs here.", f"Use --backend {' or '.join(able)}.")
    return backend
