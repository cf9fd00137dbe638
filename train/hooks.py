"""What a training run tells its user, and how it stops: progress with ETA, a checkpoint on ^C, an error on a loss that is not a number."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from segc.core.errors import UserError

_LINE_EVERY_S = 10.0
# torchrun passes the terminal's ^C on to processes that already got it: within this time it is the same one.
_SAME_SIGNAL_S = 1.0


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
        if not is_main_process() or (done < runner.max_iters and now - self._told < (0.5 if live else _LINE_EVERY_S)):
            return
        self._told = now
        left = (now - self._start) / (done - self.first) * (runner.max_iters - done)
        line = f"training: {done}/{runner.max_iters}, loss {_loss(outputs):.3f}, {left:.0f} s left"
        print(f"\r\033[K{line}" if live else line, end="" if live and done < runner.max_iters else "\n", file=sys.stderr, flush=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Tell the validation result."""
        if metrics and "mIoU" in metrics and is_main_process():
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
                "Lower the learning rate (-o optim_wrapper.optimizer.lr=..., with --fresh) or check the data (segc data check).",
            )


class MeanBuffersHook(Hook):
    """Give all processes the mean of their batch-norm statistics before a validation: they must judge, and store, one network."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Average the buffers."""
        if is_distributed():
            all_reduce_params([buffer for buffer in runner.model.buffers() if buffer.is_floating_point()], op="mean")


class StopHook(Hook):
    """On the first ^C (or SIGTERM) finish the iteration, write a checkpoint that the same command resumes from, and stop.

    A context: it takes the signals over when entered, before worker processes inherit the handler, and gives them back.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._asked = 0.0
        self._running = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopHook:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """From here on there is something to save."""
        self._running = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the checkpoint and stop, when any process was asked to.

        Raises:
            KeyboardInterrupt: after the checkpoint is on disk.
        """
        if not self._agreed():
            return
        runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", by_epoch=False)
        raise KeyboardInterrupt

    def _agreed(self) -> bool:
        """Whether to stop: processes that stopped at different iterations would wait for each other for ever."""
        if not is_distributed():
            return self._asked > 0
        votes = torch.tensor(float(self._asked > 0))
        all_reduce(votes)
        return bool(votes > 0)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:
            return
        if not self._running or (self._asked and now - self._asked > _SAME_SIGNAL_S):
            raise KeyboardInterrupt
        if not self._asked and is_main_process():
            os.write(2, b"\nstopping after this iteration (and its validation); ^C again stops at once and loses it\n")
        self._asked = self._asked or now


def _loss(outputs: Any) -> float:
    return float(torch.as_tensor(outputs["loss"]).detach()) if outputs and "loss" in outputs else math.nan
