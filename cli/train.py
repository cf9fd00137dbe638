"""``segc train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from segc.cli.verb import Outcome, verb


@verb
def train(
    config: Annotated[str, typer.Argument(help="An mmseg config: a path, mmseg::NAME.py or segc::NAME.py.")],
    override: Annotated[list[str] | None, typer.Option("-o", "--override", help="KEY=VALUE, a dotted key of the config.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Checkpoints, log, TensorBoard scalars. Default: work_dirs/CONFIG.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming what lies in the work dir.")] = False,
    launcher: Annotated[str, typer.Option(help="none, or pytorch under torchrun.")] = "none",
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data order.")] = None,
) -> Outcome:
    """Train a network with mmengine's Runner; ^C keeps the state and the same command resumes.

    Example: segc train segc::quickstart/quickstart.py -o train_dataloader.batch_size=4

    Example: torchrun --nproc-per-node 2 -m segc.cli.main train CONFIG --launcher pytorch
    """
    from segc.train.overrides import parse_overrides
    from segc.train.trainer import train as run

    if int(os.environ.get("RANK", "0")) > 0:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (one verdict a training, not one a process)
    folder = work_dir or Path("work_dirs") / Path(config.rpartition("::")[2]).stem
    result = run(config, parse_overrides(override or []), folder, resume=not fresh, launcher=launcher, seed=seed)
    summary = f"mIoU {result.miou:.2f} % after {result.iterations} iterations; weights: {result.weights}"
    return Outcome(summary, {"weights": str(result.weights), "mIoU_percent": result.miou, "iterations": result.iterations})
