"""Train a config with mmengine's Runner: resumable, quiet on the console, ending in one file that any machine may read safely."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from segc.core.errors import UserError
from segc.core.files import explain_write_errors, write_json
from segc.core.rows import Row, environment
from segc.models.network import load_config, load_network, quietly, save_network
from segc.train.hooks import FiniteLossHook, ProgressHook, StopHook

WEIGHTS = "best.safetensors"
RESULT = "train.json"


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left: the best weights (config inside), their validation mIoU in percent, and what it took.

    ``seconds`` is the wall time of this call: a resumed run counts only its own part.
    """

    weights: Path
    miou: float
    iterations: int
    seconds: float
    resumed_from: int


class _QuietRunner(Runner):
    """mmengine's Runner with its log in the work folder only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger: MMLogger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger


def train(
    config: str | Path | Config,
    overrides: Mapping[str, Any] | None = None,
    work_dir: Path | str = "work_dirs/train",
    *,
    resume: bool = True,
    launcher: str = "none",
    seed: int | None = None,
) -> TrainResult:
    """Train ``config`` and write ``work_dir/best.safetensors`` and ``work_dir/train.json``.

    The same call after an interruption goes on from the last checkpoint in ``work_dir``.

    Args:
        config: see ``segc.models.config.load_config``; it needs a ``val_evaluator`` that gives mIoU.
        overrides: dotted config key -> value.
        work_dir: checkpoints, log, TensorBoard scalars.
        resume: False starts anew and removes the checkpoints of an earlier run in ``work_dir``.
        launcher: ``none``, or ``pytorch`` under ``torchrun``.
        seed: of weights and data order; None takes the config's, else 0.

    Raises:
        UserError: the config cannot be trained, or the loss stopped being a number.
        KeyboardInterrupt: ^C; the state is on disk.
    """
    work = Path(work_dir)
    cfg = prepare(load_config(config, overrides), work, launcher, seed)
    with explain_write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        if not resume:
            _forget(work)
    cfg.resume = (work / "last_checkpoint").exists()
    start = time.monotonic()
    with quietly():
        runner = _build(cfg)
    progress, stop = ProgressHook(), StopHook()
    for hook in (FiniteLossHook(), progress, stop):
        runner.register_hook(hook)
    try:
        runner.train()
    finally:
        stop.release()
    return _finish(runner, cfg, work, time.monotonic() - start, progress.first)


def prepare(cfg: Config, work: Path, launcher: str = "none", seed: int | None = None) -> Config:
    """A config ready for this machine: gloo without a GPU, best checkpoint by mIoU, TensorBoard scalars, a recorded seed, no downloads."""
    import torch

    if not cfg.get("val_dataloader") or not cfg.get("train_dataloader"):
        raise UserError("the config has no train_dataloader or no val_dataloader.", "Give a config with a dataset.")
    cfg = cfg.copy()
    cfg.work_dir = str(work)
    cfg.launcher = launcher
    cfg.setdefault("default_scope", "mmseg")
    cfg.model = {**cfg.model, "pretrained": cfg.model.get("pretrained")}
    hooks = cfg.setdefault("default_hooks", {})
    checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": _interval(cfg), **hooks.get("checkpoint", {})}
    hooks["checkpoint"] = {**checkpoint, "save_best": "mIoU", "rule": "greater", "max_keep_ckpts": 1}
    if not torch.cuda.is_available():
        _use_cpu(cfg)
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    cfg.visualizer = {"type": "SegLocalVisualizer", "vis_backends": backends, "name": "visualizer"}
    cfg.randomness = {"seed": 0, **cfg.get("randomness", {}), **({} if seed is None else {"seed": seed})}
    return cfg


def _use_cpu(cfg: Config) -> None:
    env: dict[str, Any] = cfg.setdefault("env_cfg", {})
    env["dist_cfg"] = {**env.get("dist_cfg", {}), "backend": "gloo"}
    if cfg.get("sync_bn"):
        cfg.sync_bn = None
    _replace_sync_bn(cfg.model)


def _replace_sync_bn(node: Any) -> None:
    """SyncBN needs CUDA; on the CPU each process normalises its own batch."""
    if isinstance(node, Mapping):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"  # type: ignore[index]
        for value in node.values():
            _replace_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_sync_bn(value)


def _interval(cfg: Config) -> int:
    return int((cfg.get("train_cfg") or {}).get("val_interval") or 1000)


def _build(cfg: Config) -> Runner:
    try:
        return _QuietRunner.from_cfg(cfg)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"the config cannot be trained: {type(error).__name__}: {error}") from error


def _finish(runner: Runner, cfg: Config, work: Path, seconds: float, first: int) -> TrainResult:
    weights = work / WEIGHTS
    miou = float(runner.message_hub.get_info("best_score"))
    result = TrainResult(weights, miou, int(runner.max_iters), seconds, first)
    if int(os.environ.get("RANK", "0")) == 0:
        save_network(load_network(cfg, runner.message_hub.get_info("best_ckpt")), weights)
        write_json(work / RESULT, _as_json(result, cfg))
    return result


def _as_json(result: TrainResult, cfg: Config) -> dict[str, Any]:
    conditions = {"iterations": result.iterations, "seed": cfg.randomness["seed"], "resumed_from": result.resumed_from}
    rows = [
        Row(metric="mIoU", value=result.miou, unit="%", n=1, conditions={**conditions, "split": "val", "evaluator": "mmseg IoUMetric"}),
        Row(metric="training time", value=result.seconds, unit="s", n=1, conditions=conditions),
    ]
    return {"kind": "training", "weights": result.weights.name, "rows": [row.model_dump() for row in rows], "environment": environment()}


def _forget(work: Path) -> None:
    """Remove what an earlier run in the folder left to resume from."""
    for path in [*work.glob("*.pth"), work / "last_checkpoint", work / WEIGHTS, work / RESULT]:
        path.unlink(missing_ok=True)
    for path in work.glob("20*_*"):
        shutil.rmtree(path, ignore_errors=True)
