"""mmengine's Runner, made safe to kill: checkpoints appear whole or not at all, and reading one runs no code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, OPTIMIZERS
from mmengine.runner import Runner

from segc.core.errors import UserError, nearest
from segc.core.files import atomic_path
from segc.models.checkpoint import read_content
from segc.models.variants import closest_variant


@contextmanager
def explain_config_errors() -> Iterator[None]:
    """Turn what mmengine's registries raise on a wrong name or argument into a ``UserError``."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError, ImportError) as error:
        told = str(error.args[0]) if error.args else ""
        raise UserError(f"the config cannot be trained: {type(error).__name__}: {told.partition('. Please check')[0]}") from error


class FormattedOnce(Config):
    """A config that formats its text once: that takes longer than writing a small network, and each checkpoint carries it."""

    @property
    def pretty_text(self) -> str:
        """The config as Python text; the config must not change once it was asked for."""
        if "_formatted" not in self.__dict__:
            self.__dict__["_formatted"] = super().pretty_text
        return str(self.__dict__["_formatted"])


class SafeRunner(Runner):
    """A Runner with its log in the work folder only, atomic checkpoints, and errors of the config told as such."""

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """The process group and random state; mmengine's own way to a process group needs CUDA."""
        if self.distributed and not torch.cuda.is_available() and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger, whose console shows errors only."""
        logger: MMLogger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger

    def build_model(self, model: Any) -> Any:
        """The network, inside the module that the config's ``training_wrapper`` names (distillation), whose state is the network's."""
        network = super().build_model(model)
        wrapper = self.cfg.get("training_wrapper")
        return MODELS.build({**wrapper, "network": network}) if wrapper else network

    def build_train_loop(self, loop: Any) -> Any:
        """The training loop with its dataset."""
        with explain_config_errors():
            return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> Any:
        """The validation loop with its dataset and evaluator."""
        with explain_config_errors():
            return super().build_val_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """The optimizer."""
        kind = optim_wrapper.get("optimizer", {}).get("type") if isinstance(optim_wrapper, dict) else None
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            raise UserError(f"unknown optimizer {kind!r}.{nearest(kind, OPTIMIZERS.module_dict)}")
        with explain_config_errors():
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """The learning-rate schedule."""
        with explain_config_errors():
            return super().build_param_scheduler(scheduler)

    def _init_model_weights(self) -> None:
        try:
            super()._init_model_weights()
        except OSError as error:
            raise UserError(
                f"the config's pretrained weights cannot be read: {error}.",
                "Train from scratch (-o model.pretrained=None, -o model.backbone.init_cfg=None) or name a file there.",
            ) from error

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint atomically.

        Raises:
            UserError: the disk is full or read-only; the checkpoint before is still there.
        """
        with atomic_path(Path(out_dir) / filename) as temporary:
            super().save_checkpoint(str(temporary.parent), temporary.name, *args, **kwargs)

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", strict: bool = False, **kwargs: Any) -> Any:
        """Read a checkpoint without running code in it, and fill the network: all of it to resume, else at least its whole backbone.

        Raises:
            UserError: missing, damaged, of another network, or a pickle that would run code.
        """
        content = read_content(Path(filename))
        self.call_hook("after_load_checkpoint", checkpoint=content)
        state = content.get("state_dict", content)
        model = network_of(self)
        own = model.state_dict()
        fitting = [name for name in state if name in own and state[name].shape == own[name].shape]
        # A start needs the whole backbone: of another variant a few tensors would fit too.
        needed = [name for name in own if self._resume or name.startswith("backbone.")]
        if not fitting or not set(needed) <= set(fitting):
            raise self._of_another_network(filename, own, state, len(fitting))
        model.load_state_dict({name: state[name] for name in fitting}, strict=False)
        self._has_loaded = True
        self.logger.info(f"loaded {len(fitting)} of {len(own)} tensors from {filename}")
        return content

    def _of_another_network(self, filename: str, own: dict[str, Any], state: dict[str, Any], fitting: int) -> UserError:
        nearest = None if self._resume else closest_variant(self.cfg.model, own, state)
        fix = "Give the checkpoint of this config, or start anew with --fresh." if self._resume else "load_from needs the whole backbone."
        told = f"{filename} holds the weights of another network: {fitting} of {len(own)} tensors fit, and nothing was loaded."
        return UserError(told, nearest.sentence() if nearest else fix)


def network_of(runner: Runner) -> Any:
    """The network itself, inside what distribution and a ``training_wrapper`` put around it."""
    model: Any = runner.model
    while hasattr(model, "module"):
        model = model.module
    return model
