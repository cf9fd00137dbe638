"""Train a config with mmengine's Runner: resumable, quiet on the console, ending in one file that any machine may read safely."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from segc.core.errors import UserError, nearest
from segc.core.files import explain_write_errors, read_json, write_json
from segc.core.rows import Row, environment
from segc.models.checkpoint import read_checkpoint
from segc.models.network import load_config, load_network, quietly, save_network
from segc.train import sparsity  # noqa: F401  (a hook that configs name)
from segc.train.checkpoints import ContinueHook, SafeCheckpointHook, last_checkpoint
from segc.train.hooks import FiniteLossHook, MeanBuffersHook, ProgressHook, StopHook
from segc.train.runner import FormattedOnce, SafeRunner, explain_config_errors

WEIGHTS = "best.safetensors"
RESULT = "train.json"
_LAUNCHERS = ("none", "pytorch")
# What makes two trainings the same one; their length may differ.
_IDENTITY = ("model", "training_wrapper", "started_from", "train_dataloader", "optim_wrapper", "param_scheduler", "randomness")
_SPEED_KEYS = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")
_ANEW = "Add --fresh to start anew there, or name another --work-dir."


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left: the best weights (config inside), their validation mIoU in percent, and what it took.

    ``seconds`` is the wall time of the call that ended the training: a resumed one counts only its own part.
    """

    weights: Path
    miou: float
    iterations: int
    seconds: float
    resumed_from: int


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

    The same call after an interruption goes on from the last checkpoint in ``work_dir``; after the end it returns the stored result.

    Args:
        config: see ``segc.models.config.load_config``; it needs a ``val_evaluator`` that gives mIoU.
        overrides: dotted config key -> value.
        work_dir: checkpoints, log, TensorBoard scalars.
        resume: False starts anew and removes the checkpoints of an earlier run in ``work_dir``.
        launcher: ``none``, or ``pytorch`` under ``torchrun``.
        seed: of weights and data order; None takes the config's, else 0.

    Raises:
        UserError: the config cannot be trained, ``work_dir`` cannot be written or holds another training, or the loss became NaN.
        KeyboardInterrupt: ^C; the state is on disk.
    """
    start = time.monotonic()
    _check_launcher(launcher)
    work = Path(work_dir)
    cfg = prepare(load_config(config, overrides), work, launcher, seed)
    _claim(work, fresh=not resume)
    # A fresh start asks nothing of the folder: under torchrun rank 0 may still be clearing it.
    finished = _finished(work, cfg) if resume else None
    if finished:
        return finished
    lasting = _without_this_run(cfg)
    last = last_checkpoint(work) if resume else None
    if last:
        check_same_training(cfg, read_checkpoint(last).config, work)
        cfg.resume, cfg.load_from = True, str(last)
    progress = ProgressHook()
    with _explain_full_disk(work), StopHook() as stop:
        runner = build_runner(cfg)
        for hook in (ContinueHook(), FiniteLossHook(), MeanBuffersHook(), progress, stop):
            runner.register_hook(hook)
        runner.train()
        return _finish(runner, lasting, work, start, progress.first)


def prepare(cfg: Config, work: Path, launcher: str = "none", seed: int | None = None) -> Config:
    """A config ready for this machine (gloo, full precision without a GPU): best checkpoint by mIoU, TensorBoard scalars, its seed."""
    import torch

    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "val_dataloader", "val_cfg", "val_evaluator"):
        if not cfg.get(key):
            raise UserError(f"the config has no {key}, which training needs.", "Name a config with dataset, schedule and evaluator.")
    if "max_iters" not in cfg.train_cfg:
        raise UserError(
            "the config counts epochs (train_cfg has no max_iters).", "Set train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)."
        )
    cfg = cfg.copy()
    cfg.work_dir = str(work)
    cfg.launcher = launcher
    cfg.setdefault("default_scope", "mmseg")
    # mmengine names its logs and its memory of the best score by the second; two runs of one second must not share them.
    cfg.experiment_name = uuid.uuid4().hex[:8]
    hooks = cfg.setdefault("default_hooks", {})
    checkpoint = {"interval": _interval(cfg), **hooks.get("checkpoint", {}), "type": SafeCheckpointHook.__name__, "by_epoch": False}
    hooks["checkpoint"] = {**checkpoint, "save_best": "mIoU", "rule": "greater", "max_keep_ckpts": 2}
    if not torch.cuda.is_available():
        _use_cpu(cfg, launcher)
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    cfg.visualizer = {"type": "SegLocalVisualizer", "vis_backends": backends}
    cfg.randomness = {"seed": 0, **cfg.get("randomness", {}), **({} if seed is None else {"seed": seed})}
    return cfg


def _without_this_run(cfg: Config) -> Config:
    """What goes into the weights' file: a training that was stopped and went on writes the same bytes as one that was not."""
    lasting = cfg.copy()
    for key in ("experiment_name", "work_dir", "launcher"):
        lasting.pop(key, None)
    return lasting


def _use_cpu(cfg: Config, launcher: str) -> None:
    env: dict[str, Any] = cfg.setdefault("env_cfg", {})
    env["dist_cfg"] = {**env.get("dist_cfg", {}), "backend": "gloo"}
    if launcher != "none":
        # mmengine would give the wrapper a GPU.
        unused = bool(cfg.get("find_unused_parameters"))
        cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "find_unused_parameters": unused}
    if cfg.get("sync_bn"):
        cfg.sync_bn = None
    if full_precision(cfg.optim_wrapper):
        print("note: no GPU here, so that this trains in full precision: mmengine refuses AmpOptimWrapper on the CPU.", file=sys.stderr)
    _replace_sync_bn(cfg.model)


def full_precision(optim_wrapper: Any) -> bool:
    """Turn mixed precision off in a config's ``optim_wrapper``, in place; False where it was off."""
    if optim_wrapper.get("type") != "AmpOptimWrapper":
        return False
    optim_wrapper["type"] = "OptimWrapper"
    for option in ("loss_scale", "dtype", "use_fp64"):
        optim_wrapper.pop(option, None)
    return True


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


def _check_launcher(launcher: str) -> None:
    """Refuse to start without the processes that were asked for, and to let several processes train the same thing side by side."""
    if launcher not in _LAUNCHERS:
        raise UserError(f"unknown launcher {launcher!r}.{nearest(launcher, _LAUNCHERS)}")
    if launcher == "pytorch" and "RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch was given, but torchrun did not start this process.",
            "torchrun --nproc-per-node 2 -m segc.cli.main train ... --launcher pytorch",
        )
    if launcher == "none" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("torchrun started several processes, which would each train the whole network.", "Add --launcher pytorch.")


def _claim(work: Path, fresh: bool) -> None:
    """Make ``work`` and see that it can be written, before anything is computed."""
    with explain_write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work) as probe:
            probe.write(b"0")
    if fresh and _is_first_process():
        forget(work)


def _is_first_process() -> bool:
    """Rank 0, also before the process group exists."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _explain_full_disk(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        with explain_write_errors(work):
            raise


def _finished(work: Path, cfg: Config) -> TrainResult | None:
    """The result of a training of ``cfg`` that ended here before; None when there is something left to do."""
    if not ((work / WEIGHTS).is_file() and (work / RESULT).is_file()):
        return None
    stored = read_json(work / RESULT)
    first, *_ = rows = [Row(**row) for row in stored["rows"]]
    if first.conditions["iterations"] < int(cfg.train_cfg.max_iters):
        return None
    check_same_training(cfg, read_checkpoint(work / WEIGHTS).config, work)
    conditions = first.conditions
    return TrainResult(work / WEIGHTS, first.value, conditions["iterations"], rows[1].value, conditions["resumed_from"])


def check_same_training(cfg: Config, earlier: Config | None, work: Path) -> None:
    """Refuse to go on from the checkpoint of another training: mmengine would keep its learning rate and mix the rest.

    Raises:
        UserError: network, data, optimizer, schedule or seed differ; the message names the first difference.
    """
    if earlier is None:
        raise UserError(f"the checkpoint in {work} carries no config.", _ANEW)
    for key in _IDENTITY:
        for where, there, here in _differences(earlier.get(key), cfg.get(key), key):
            raise UserError(f"{work} holds a training of another config: {where} was {there!r} and is now {here!r}.", _ANEW)


def _differences(there: Any, here: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            if key not in _SPEED_KEYS:
                yield from _differences(there.get(key), here.get(key), f"{where}.{key}")
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (old, new) in enumerate(zip(there, here, strict=True)):
            yield from _differences(old, new, f"{where}.{index}")
    elif there != here:
        yield where, there, here


def build_runner(cfg: Config) -> SafeRunner:
    """The Runner of a prepared config.

    Raises:
        UserError: a name or an argument in the config is wrong.
    """
    with quietly(), explain_config_errors():
        import segc.models.zoo  # noqa: F401  (the networks a config may name)

        return SafeRunner.from_cfg(FormattedOnce(cfg.to_dict(), filename=cfg.filename))


def _finish(runner: SafeRunner, cfg: Config, work: Path, start: float, first: int) -> TrainResult:
    info = runner.message_hub.runtime_info
    if "best_ckpt" not in info:
        raise UserError("the training ended without a validation that gave mIoU.", "Set val_evaluator=dict(type='IoUMetric').")
    weights = work / WEIGHTS
    result = TrainResult(weights, float(info["best_score"]), int(runner.iter), time.monotonic() - start, first)
    if is_main_process():
        save_network(load_network(cfg, info["best_ckpt"]), weights)
        write_json(work / RESULT, _as_json(result, cfg))
    return result


def _as_json(result: TrainResult, cfg: Config) -> dict[str, Any]:
    conditions = {"iterations": result.iterations, "seed": cfg.randomness["seed"], "resumed_from": result.resumed_from}
    rows = [
        Row(metric="mIoU", value=result.miou, unit="%", n=1, conditions={**conditions, "split": "val", "evaluator": "mmseg IoUMetric"}),
        Row(metric="training time", value=result.seconds, unit="s", n=1, conditions=conditions),
    ]
    return {"kind": "training", "weights": result.weights.name, "rows": [row.model_dump() for row in rows], "environment": environment()}


def forget(work: Path) -> None:
    """Remove what an earlier training left in ``work``; other files stay."""
    patterns = ("iter_*.pth", "epoch_*.pth", "best_mIoU_*.pth", "last_checkpoint", WEIGHTS, RESULT)
    for path in [found for pattern in patterns for found in work.glob(pattern)]:
        path.unlink(missing_ok=True)
    for path in work.glob("[0-9]" * 8 + "_" + "[0-9]" * 6):
        shutil.rmtree(path, ignore_errors=True)
