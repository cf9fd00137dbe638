"""What a training run tells its user, and how it stops: progress with ETA, a checkpoint on ^C, an error on a loss that is not a number."""

from __future__ import annotations

import math
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from segc.core.errors import UserError

_LINE_EVERY_S = 10.0


class ProgressHook(Hook):
    """Iteration, loss and time left on stderr: one rewritten line on a terminal, a line every ten seconds elsewhere."""

    priority = "VERY_LOW"
    first = 0

    def before_train(self, runner: Runner) -> None:
        """Start the clock; a resumed run counts its own iterations only."""
        self.first, self._start, self._told = runner.iter, time.monotonic(), 0.0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Tell how far the run is."""
        now = time.monotonic()
        live = sys.stderr.isatty()
        done = runner.iter + 1
        if done < runner.max_iters and now - self._told < (0.5 if live else _LINE_EVERY_S):
            return
        self._told = now
        left = (now - self._start) / (done - self.first) * (runner.max_iters - done)
        line = f"training: {done}/{runner.max_iters}, loss {_loss(outputs):.3f}, {left:.0f} s left"
        print(f"\r\033[K{line}" if live else line, end="" if live and done < runner.max_iters else "\n", file=sys.stderr, flush=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Tell the validation result."""
        if metrics and "mIoU" in metrics:
            print(f"{chr(10) if sys.stderr.isatty() else ''}validated: mIoU {metrics['mIoU']:.2f} %", file=sys.stderr, flush=True)


class FiniteLossHook(Hook):
    """Stop a run whose loss is no number any more, before a broken checkpoint replaces a good one."""

    priority = "HIGHEST"

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the loss.

        Raises:
            UserError: the loss is NaN or infinite.
        """
        if outputs and not math.isfinite(_loss(outputs)):
            raise UserError(
                f"the loss became {_loss(outputs)} at iteration {runner.iter + 1}.",
                "Lower the learning rate (-o optim_wrapper.optimizer.lr=...) or check the data (segc data check).",
            )


class StopHook(Hook):
    """On the first ^C finish the iteration, write a checkpoint that the same command resumes from, and stop."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self._asked = False

    def before_train(self, runner: Runner) -> None:
        """Take over SIGINT for the time of the training."""
        self._before = signal.signal(signal.SIGINT, self._ask)

    def after_train(self, runner: Runner) -> None:
        """Give SIGINT back."""
        self.release()

    def release(self) -> None:
        """Give SIGINT back; harmless when it was never taken."""
        if getattr(self, "_before", None) is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the checkpoint and stop, when asked to.

        Raises:
            KeyboardInterrupt: after the checkpoint is on disk.
        """
        if not self._asked:
            return
        name = f"iter_{runner.iter + 1}.pth"
        runner.save_checkpoint(runner.work_dir, name, save_param_scheduler=True, by_epoch=False)
        (Path(runner.work_dir) / "last_checkpoint").write_text(str(Path(runner.work_dir) / name))
        raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nstopping after this iteration; ^C again stops at once and loses it", file=sys.stderr, flush=True)


def _loss(outputs: Any) -> float:
    return float(outputs["loss"].detach()) if outputs and "loss" in outputs else math.nan
