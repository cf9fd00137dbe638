"""The network as training sees it while it is distilled: its losses and those against the teacher. Its state is the student's alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from segc.compress.distill.points import Point, Taps, last_head
from segc.compress.distill.teacher import Teacher
from segc.compress.distill.terms import KINDS, Term
from segc.core.errors import UserError
from segc.models.network import load_network

# Of the image that shows how many channels the points have, where the config's training crops have no size.
_SIZE = (256, 256)
_ADAPTERS = "distillation_adapters"


@MODELS.register_module()
class Distilled(BaseModel):
    """A segmentor that trains on its own losses and on those against a teacher.

    Args:
        network: the student.
        classes: its class names.
        teacher: ``weights`` (a checkpoint), ``config`` (or None where the checkpoint has one inside), ``sha256`` of its tensors.
        losses: ``Term``s as mappings.
        cache: see ``Teacher``.

    Raises:
        UserError: the teacher cannot be loaded, a point does not exist or is no map, or channels or classes do not fit a loss.
    """

    def __init__(
        self,
        network: Any,
        classes: Sequence[str],
        teacher: Mapping[str, Any],
        losses: Sequence[Mapping[str, Any]],
        cache: str | None = None,
    ) -> None:
        super().__init__()
        # Named as the wrappers of torch name it: segc.train.runner.network_of finds it there.
        self.module: Any = network
        self.data_preprocessor = network.data_preprocessor
        self._terms = [Term(**term) for term in losses]
        master = load_network(teacher["config"], teacher["weights"])
        student_points, teacher_points = points_of(self._terms, network, master.model)
        self._taps = Taps(network, student_points, "student")
        # Random numbers are those of a training without a teacher.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            images = torch.randn(1, 3, *(getattr(network.data_preprocessor, "size", None) or _SIZE))
            ours = self._try(images)
            theirs = Teacher(master.model, teacher_points, network.data_preprocessor).outputs(images)
            self.adapters = nn.ModuleList(_adapter(*each) for each in zip(self._terms, ours, theirs, strict=True))
        for each in zip(self._terms, ours, theirs, strict=True):
            _check_classes(*each, classes, master.classes)
        self._teacher = Teacher(master.model, teacher_points, network.data_preprocessor, Path(cache) if cache else None)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """As the student's; ``mode="loss"`` adds a weighted loss a term."""
        if mode != "loss":
            return self.module(inputs, data_samples, mode)
        with self._taps.listening() as heard:
            found = dict(self.module(inputs, data_samples, "loss"))
            ours = heard()
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])
        steps = zip(self._terms, self.adapters, ours, self._teacher.outputs(inputs), strict=True)
        for number, (term, adapter, student, teacher) in enumerate(steps):
            found[f"distill{number}.loss_{term.kind}"] = term.loss(adapter(student), teacher, labels)
        return found

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The student's state alone."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Fill the student."""
        return self.module.load_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _try(self, images: Tensor) -> list[Tensor]:
        """The student's outputs in a training pass that changes nothing."""
        nothing = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *images.shape[2:], dtype=torch.long)))
        was_training = self.module.training
        self.module.eval()
        with self._taps.listening() as heard:
            self.module(images, [nothing], "loss")
            outputs = heard()
        self.module.train(was_training)
        return outputs


@HOOKS.register_module()
class AdapterHook(Hook):
    """Keeps the adapters beside the student's state in a training's checkpoints, and takes them up again."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add them."""
        checkpoint[_ADAPTERS] = _distilled(runner).adapters.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Fill them, where the checkpoint is one of a distillation."""
        if _ADAPTERS in checkpoint:
            _distilled(runner).adapters.load_state_dict(checkpoint[_ADAPTERS])


def points_of(terms: Sequence[Term], student: nn.Module, teacher: nn.Module) -> tuple[list[Point], list[Point]]:
    """The student's and the teacher's point of each term."""
    ours = [Point.parse(term.student) if term.student else last_head(student) for term in terms]
    return ours, [Point.parse(term.teacher) if term.teacher else last_head(teacher) for term in terms]


def _adapter(term: Term, student: Tensor, teacher: Tensor) -> nn.Module:
    """What brings the student's channels to the teacher's.

    Raises:
        UserError: they differ, or are one, where the loss compares the scores of classes.
    """
    rule, ours, theirs = KINDS[term.kind].channels, student.shape[1], teacher.shape[1]
    if rule == "equal" and ours != theirs:
        raise UserError(f"the loss {term} compares {ours} channels with {theirs}.", "Use cwd or feature, which adapt them, or affinity.")
    if rule == "equal" and ours == 1:
        raise UserError(f"the loss {term} has one channel: a softmax over it says nothing.", "Use feature or affinity.")
    return nn.Conv2d(ours, theirs, 1) if rule == "adapt" and ours != theirs else nn.Identity()


def _check_classes(term: Term, student: Tensor, teacher: Tensor, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Refuse to compare scores of one class with those of another: maps with as many channels as there are classes."""
    scores = KINDS[term.kind].channels != "any" and student.shape[1] == teacher.shape[1] == len(ours)
    if scores and list(ours) != list(theirs):
        raise UserError(
            f"the loss {term} compares scores of different classes: {_some(ours)} and {_some(theirs)}.",
            "Take a teacher of the same classes, or compare features: --loss feature:... or affinity:...",
        )


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:4]) + ("..." if len(classes) > 4 else "")


def _distilled(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
