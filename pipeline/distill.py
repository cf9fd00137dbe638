"""Train a network against a teacher; the result is one file that knows nothing of either."""

from __future__ import annotations

from pathlib import Path

from segc.compress.distill.setup import Distillation
from segc.models.network import Network
from segc.pipeline.prune import register_data, train_into, tuning_config
from segc.train.trainer import TrainResult


def distill(
    student: Network,
    distillation: Distillation,
    output: Path,
    *,
    start: Path | None = None,
    iterations: int = 400,
    work_dir: Path | None = None,
    resume: bool = True,
    seed: int | None = None,
) -> TrainResult:
    """Train ``student`` on its labels and against a teacher, and write it to ``output``.

    Args:
        student: a network whose config describes a training.
        distillation: the teacher and the losses.
        output: the ``.safetensors`` to write: the student's config, classes and weights, as ``segc train`` would have left them.
        start: the student's weights, trained on for ``iterations`` at half the learning rate; None trains from scratch as the config says.
        iterations: see ``start``.
        work_dir: of the training, which resumes like ``segc train``. None: beside ``output``.
        resume: False starts anew.
        seed: see ``segc.train.trainer.train``.

    Raises:
        UserError: see ``Distillation.added_to``, ``Distilled`` and ``train``.
        KeyboardInterrupt: ^C; the state is on disk.
    """
    register_data()
    cfg = tuning_config(student.cfg, iterations, start) if start else student.cfg
    cfg = distillation.added_to(cfg, student.classes)
    return train_into(output, cfg, student.cfg, work_dir or output.with_suffix(""), resume=resume, seed=seed)[1]
