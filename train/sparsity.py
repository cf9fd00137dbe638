"""Training that keeps weights 2:4 sparse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from segc.models.sparsity import apply_masks, masks_of
from segc.train.runner import network_of


@HOOKS.register_module()
class SparsityHook(Hook):
    """Sets the same weights to zero after each step of the optimiser; which ones, the weights at the start say.

    A config that names it (``custom_hooks=[dict(type='SparsityHook', tensors=[...])]``) trains a sparse network on as a sparse one.

    Args:
        tensors: names of the weights.
    """

    # Before a checkpoint is written, and before anything averages weights.
    priority = "VERY_HIGH"

    def __init__(self, tensors: Sequence[str]) -> None:
        self.tensors = list(tensors)

    def before_train(self, runner: Runner) -> None:
        """Take the masks from the weights that were loaded."""
        self._masks = masks_of(network_of(runner), self.tensors)
        apply_masks(network_of(runner), self._masks)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Apply the masks again."""
        apply_masks(network_of(runner), self._masks)
