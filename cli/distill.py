"""``segc distill``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segc.cli.source import config_and_weights
from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError

if TYPE_CHECKING:
    from segc.compress.distill.setup import Distillation


@verb
def distill(
    student: Annotated[str, typer.Argument(help="A checkpoint with its config (also a pruned one), or a config to train from scratch.")],
    teacher: Annotated[Path, typer.Option(help="A checkpoint of any network of the same classes.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file to write.")],
    loss: Annotated[list[str] | None, typer.Option(help="KIND[:STUDENT[=TEACHER]][,OPTION=VALUE...]; repeatable. Default: cwd.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the config: .safetensors or .pth.")] = None,
    teacher_config: Annotated[str | None, typer.Option(help="Of a teacher whose checkpoint has no config inside.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="From a checkpoint. Default: 400. A config has a schedule.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the teacher's outputs: for trainings without augmentation.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Of the training. Default: beside the output.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming what lies in the work dir.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data order.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a dotted key of the student's config.")] = None,
) -> Outcome:
    """Train a network on its labels and on what a better network says; the file it writes knows nothing of the teacher.

    Losses: kd, cwd, dist, boundary (class scores), feature, affinity (any module). A point is a module, or one item of its output:
    decode_head.conv_seg, backbone[3]. Without a point a loss compares the logits. ^C keeps the state; the same command resumes.

    Example: segc distill half.safetensors --teacher best.safetensors -o half_distilled.safetensors

    Example: segc distill segc::quickstart/quickstart.py --teacher segman_t.safetensors --loss kd --loss cwd,weight=3 -o out.safetensors

    Example: segc distill half.safetensors --teacher best.safetensors --loss feature:neck.fpn_convs.0,similarity=cosine -o out.safetensors
    """
    from segc.models.network import load_network
    from segc.pipeline.distill import distill as run
    from segc.train.overrides import parse_overrides

    config, start = config_and_weights(student, weights)
    if iterations and not start:
        raise UserError("--iterations counts from a checkpoint; a config trains by its own schedule.", _SCHEDULE)
    network = load_network(config, start, overrides=parse_overrides(override or []), random_weights=start is None)
    distillation = distillation_of(teacher, teacher_config, loss, cache)
    result = run(
        network, distillation, output, start=start, iterations=iterations or 400, work_dir=work_dir, resume=not fresh, seed=seed
    )  # fmt: skip
    told = f"mIoU {result.miou:.2f} % after {result.iterations} iterations with {', '.join(distillation.losses)}; {output} written"
    data = {"output": str(output), "mIoU_percent": result.miou, "iterations": result.iterations, "losses": list(distillation.losses)}
    return Outcome(told, data, ["Next:", f"  segc export {output} -o bundle/"])


_SCHEDULE = "Give the student's weights too (--weights), or change the schedule: --override train_cfg.max_iters=1000"


def distillation_of(teacher: Path, config: str | None, losses: list[str] | None, cache: Path | None = None) -> Distillation:
    """What ``--teacher`` and the options around it mean."""
    from segc.compress.distill.setup import DEFAULT_LOSSES, Distillation

    return Distillation(teacher, config, tuple(losses or DEFAULT_LOSSES), cache)
