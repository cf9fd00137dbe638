"""What a channel is worth: torch-pruning's criteria by name, and the gradients that two of them need."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch_pruning.pruner import importance as tp

from segc.core.errors import UserError
from segc.core.progress import track

Score = Callable[[Any], Tensor | None]

# Name -> torch-pruning's criterion. taylor, hessian: gradients of the training loss.
CRITERIA: dict[str, Callable[[], Score]] = {
    "l1": lambda: tp.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.GroupMagnitudeImportance(p=2),
    "taylor": tp.GroupTaylorImportance,
    "hessian": tp.GroupHessianImportance,
    "bn": tp.BNScaleImportance,
    "fpgm": tp.FPGMImportance,
    "lamp": tp.LAMPImportance,
    "random": tp.RandomImportance,
}
_GRADIENTS = {"taylor": False, "hessian": True}


def make_score(criterion: str, model: nn.Module, cfg: Config, images: int, seed: int) -> Score:
    """The scoring function of a criterion for the groups of ``model``.

    Sources: l1, l2 Li et al. (arXiv 1608.08710) summed over the group (DepGraph, arXiv 2301.12900); taylor Molchanov et al. (arXiv
    1906.10771); hessian optimal brain damage with the squared gradients of single images (LeCun et al., 1989); bn network slimming (arXiv
    1708.06519); fpgm geometric median (arXiv 1811.00250); lamp (arXiv 2010.07611); random: the control.

    Args:
        criterion: a key of ``CRITERIA``.
        model: its ``.grad`` are filled where the criterion needs them.
        cfg: with the training data, for the criteria with gradients.
        images: how many training images those look at.
        seed: of ``random``, and of the images.

    Raises:
        UserError: the criterion needs training data that the config does not have.
    """
    if criterion in _GRADIENTS:
        _fill_gradients(model, cfg, images, seed, squared=_GRADIENTS[criterion])
    score = CRITERIA[criterion]()
    if criterion != "random":
        return score
    generator = torch.Generator().manual_seed(seed)
    return lambda group: torch.rand(len(group[0].idxs), generator=generator)


def _fill_gradients(model: Any, cfg: Config, images: int, seed: int, squared: bool) -> None:
    """Put into each ``.grad`` the mean over training images of the loss's gradient, or of its square."""
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    batches = _batches(cfg, images, seed, 1 if squared else None)
    for batch in track(batches, "gradients of the training loss"):
        model.zero_grad()
        data = model.data_preprocessor(batch, True)
        model.parse_losses(model.loss(data["inputs"], data["data_samples"]))[0].backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.square() if squared else parameter.grad
    for name, parameter in model.named_parameters():
        parameter.grad = total[name] / len(batches)


def _batches(cfg: Config, images: int, seed: int, size: int | None) -> list[Any]:
    """Training images as the config augments them; the same ones, augmented the same way, for the same seed."""
    from mmengine.runner import Runner

    from segc.models.config import quietly

    loader = cfg.get("train_dataloader")
    if not loader:
        raise UserError("this criterion looks at training images, and the config has no train_dataloader.", "Use --criterion l1.")
    size = size or int(loader.get("batch_size", 1))
    loader = {**loader, "batch_size": size, "num_workers": 0, "persistent_workers": False}
    with quietly(), _seeded(seed):
        return list(islice(Runner.build_dataloader(loader, seed=seed), -(-images // size)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The random numbers that augmentations draw, fixed for the context and as before after it."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
