"""What a training keeps on disk: the last two checkpoints and the best one, each replaced only when its successor is whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from segc.core.errors import UserError


def last_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint in ``work`` that a training can resume from."""
    found = [path for pattern in ("iter_*.pth", "epoch_*.pth") for path in work.glob(pattern)]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes the old best checkpoint before the new one is written; here it goes afterwards."""

    best_ckpt_path: str | None

    def before_train(self, runner: Runner) -> None:
        """Take the best checkpoint up again; the folder may have moved, and a killed run may not have written it."""
        super().before_train(runner)
        if self.best_ckpt_path is None:
            return
        path = Path(runner.work_dir) / Path(self.best_ckpt_path).name
        self.best_ckpt_path = str(path) if path.is_file() else None
        info = runner.message_hub.runtime_info
        if self.best_ckpt_path:
            info["best_ckpt"] = self.best_ckpt_path
        else:
            info.pop("best_ckpt")
            info.pop("best_score")

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if "mIoU" not in metrics:
            raise UserError(
                f"the validation gave no mIoU ({', '.join(metrics)}).", "Set val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU'])."
            )
        old, self.best_ckpt_path = self.best_ckpt_path, None
        super()._save_best_checkpoint(runner, metrics)
        if self.best_ckpt_path is None:
            self.best_ckpt_path = old
        elif old and old != self.best_ckpt_path and is_main_process():
            Path(old).unlink(missing_ok=True)


class ContinueHook(Hook):
    """Go on as if nothing had happened: the random states of the checkpoint, and the validation that the end of the process cut off.

    With data loaded in the main process (``num_workers=0``) a resumed training gives the very weights of an uninterrupted one.
    Worker processes and the ranks of a distributed training draw new augmentations.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._torch: torch.Tensor | None = None
        self._loaded: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the random states; drop the history of losses, which TensorBoard has and which only a full unpickling could read."""
        checkpoint["message_hub"] = {**checkpoint["message_hub"], "log_scalars": {}}
        version, numbers, gauss = random.getstate()
        state: Any = np.random.get_state()
        name, keys, position, has_gauss, cached = state
        numpy_state = [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached]
        checkpoint["random"] = {"python": [version, numbers, gauss], "numpy": numpy_state, "torch": torch.get_rng_state()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until the training starts."""
        self._loaded = checkpoint.get("random")

    def before_train(self, runner: Runner) -> None:
        """Restore the random states; catch up on a validation that was due."""
        if self._loaded and runner.iter > 0 and not is_distributed():
            self._restore(self._loaded)

    def before_train_epoch(self, runner: Runner) -> None:
        """Catch up on the validation that was due when the process ended."""
        loop = runner.train_loop
        due = runner.iter > 0 and (runner.iter % loop.val_interval == 0 or runner.iter >= runner.max_iters)
        if due and runner.message_hub.runtime_info.get("validated") != runner.iter:
            runner.val_loop.run()
        self._torch = torch.get_rng_state() if runner.iter > 0 else None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Undo the draw by which the new data loader seeded itself."""
        if self._torch is not None and not is_distributed():
            torch.set_rng_state(self._torch)
        self._torch = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note where the last validation was."""
        runner.message_hub.update_info("validated", runner.iter)

    def _restore(self, state: dict[str, Any]) -> None:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"])
