"""Prune in steps, each followed by a short training of what is left; the result is one file that needs nothing of the original."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from segc.compress.distill.setup import Distillation
from segc.compress.prune import PruneOptions, Pruner
from segc.compress.targets import Target, counted_size, plan_for
from segc.core.errors import UserError
from segc.models.checkpoint import weights_sha256
from segc.models.complexity import Complexity, complexity
from segc.models.network import Network, load_network, quietly, save_network
from segc.train.trainer import TrainResult, train

# Of the iterations, and of the learning rate of the training before: weights that are good already are led gently.
_WARM_UP = 0.1
_LEARNING_RATE = 0.5


@dataclass(frozen=True)
class PruneResult:
    """A pruned network; what it costs before and after at ``size``; the trainings, one a step."""

    network: Network
    before: Complexity
    after: Complexity
    size: tuple[int, int]
    trainings: list[TrainResult]


def prune(
    network: Network,
    target: Target,
    output: Path,
    options: PruneOptions | None = None,
    *,
    steps: int = 1,
    iterations: int = 0,
    work_dir: Path | None = None,
    distillation: Distillation | None = None,
) -> PruneResult:
    """Prune ``network`` towards ``target`` and write the result to ``output``.

    Args:
        network: with its trained weights.
        target: see ``segc.compress.targets``.
        output: the ``.safetensors`` to write, with the narrower config inside.
        options: how channels are chosen.
        steps: prune this many times, by the same share each time, with a training after each.
        iterations: of each training; 0 trains nothing.
        work_dir: of the trainings; they resume like ``segc train``. None: beside ``output``.
        distillation: what each training learns from besides the labels.

    Raises:
        UserError, CheckFailed: see ``Pruner`` and ``plan_for``; or a training went wrong.
    """
    if steps < 1 or iterations < 0 or (steps > 1 and not iterations):
        raise UserError(f"{steps} steps with {iterations} iterations of fine-tuning: several steps need a training between them.")
    register_data()
    size = counted_size(network)
    pruned, trainings = network, []
    for step in range(1, steps + 1):
        pruner = Pruner(pruned, options)
        pruned = pruner.cut(plan_for(pruner, step_target(target, step, steps), network))
        save_network(pruned, output)
        if iterations:
            folder = (work_dir or output.with_suffix("")) / f"step{step}"
            cfg = tuning_config(pruned.cfg, iterations, output)
            cfg = distillation.added_to(cfg, pruned.classes) if distillation else cfg
            pruned, training = train_into(output, cfg, pruned.cfg, folder)
            trainings.append(training)
    return PruneResult(pruned, complexity(network.model, size), complexity(pruned.model, size), size, trainings)


def register_data() -> None:
    """Datasets and transforms that our configs name: a config inside a checkpoint imports nothing."""
    with quietly():
        import segc.data.mmseg_dataset
        import segc.train.transforms  # noqa: F401


def step_target(target: Target, step: int, steps: int) -> Target:
    """The target of one of several steps: a share left counts from the whole network, a ratio removed from the network of that step."""
    if target.kind == "ratio":
        return replace(target, value=1 - (1 - target.value) ** (1 / steps))
    return replace(target, value=target.value ** (step / steps)) if 0 < target.value < 1 else target


def tuning_config(cfg: Config, iterations: int, weights: Path) -> Config:
    """The training of ``cfg`` made short: it starts from ``weights``, warms up and decays, at a lower rate, and validates once.

    Raises:
        UserError: the config describes no training.
    """
    cfg = copy.deepcopy(cfg)
    if not cfg.get("train_cfg") or not cfg.get("optim_wrapper"):
        raise UserError("the network's config describes no training (train_cfg, optim_wrapper), so it cannot be fine-tuned.")
    warm_up = max(int(_WARM_UP * iterations), 1)
    cfg.load_from = str(weights)
    cfg.started_from = weights_sha256(weights)
    cfg.train_cfg = {**cfg.train_cfg, "max_iters": iterations, "val_interval": iterations}
    optimizer = cfg.optim_wrapper.optimizer
    optimizer.lr = _LEARNING_RATE * optimizer.lr
    cfg.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": warm_up},
        {"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "by_epoch": False, "begin": warm_up, "end": max(iterations, warm_up + 1)},
    ]
    return cfg


def train_into(
    output: Path, cfg: Config, own: Config, work_dir: Path, *, resume: bool = True, seed: int | None = None
) -> tuple[Network, TrainResult]:
    """Train by ``cfg`` and write the network to ``output`` with ``own``, the config it had before what ``cfg`` adds for the training.

    Args:
        work_dir, resume, seed: see ``segc.train.trainer.train``.
    """
    result = train(cfg, work_dir=work_dir, resume=resume, seed=seed)
    network = replace(load_network(own, result.weights), cfg=own)
    save_network(network, output)
    return network, result
