"""A loss of a distillation as the user writes it, ``KIND[:STUDENT[=TEACHER]][,OPTION=VALUE...]``, checked and ready to be computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segc.compress.distill import losses
from segc.compress.distill.points import Point
from segc.core.errors import UserError, nearest


@dataclass(frozen=True)
class Kind:
    """A kind of loss: its function, its usual weight, what happens where channels differ, and what else it needs.

    channels: "equal" (scores of the same classes), "adapt" (a 1x1 convolution brings the student's to the teacher's), "any".
    """

    function: Callable[..., Tensor]
    weight: float
    channels: str
    labels: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


# Weights as in the papers, where they give one for logits.
KINDS = {
    "kd": Kind(losses.kd, 1.0, "equal"),
    "cwd": Kind(losses.cwd, 3.0, "adapt"),
    "dist": Kind(losses.dist, 1.0, "equal"),
    "boundary": Kind(losses.boundary, 1.0, "equal", labels=True),
    "feature": Kind(losses.feature, 1.0, "adapt"),
    "affinity": Kind(losses.affinity, 1.0, "any"),
}
_CHOICES = {"similarity": ("mse", "cosine")}
_EXAMPLE = "Example: --loss cwd:decode_head.conv_seg,weight=3,temperature=4"


@dataclass(frozen=True)
class Term:
    """A loss between an output of the student and one of the teacher; without a name it is the logits of the last head."""

    kind: str
    weight: float
    student: str | None = None
    teacher: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Term:
        """The loss of ``cwd``, ``feature:neck.fpn_convs.0,similarity=cosine`` or ``kd:decode_head.conv_seg=decode_head.cls_seg``.

        Raises:
            UserError: an unknown kind or option, or a value that is none of the option's.
        """
        where, *settings = text.split(",")
        name, colon, points = where.partition(":")
        if name not in KINDS:
            raise UserError(f"unknown loss {name!r} in {text!r}.{nearest(name, KINDS)}", _EXAMPLE)
        student, _, teacher = points.partition("=")
        if colon:
            Point.parse(student), Point.parse(teacher or student)
        given = dict(_setting(name, setting, text) for setting in settings)
        weight = given.pop("weight", KINDS[name].weight)
        return cls(name, weight, student or None, (teacher or student) or None, {**KINDS[name].options, **given})

    def as_dict(self) -> dict[str, Any]:
        """What a config holds."""
        return asdict(self)

    def __str__(self) -> str:
        where = "" if self.student is None else f":{self.student}" + ("" if self.teacher == self.student else f"={self.teacher}")
        changed = {name: value for name, value in self.options.items() if value != KINDS[self.kind].options[name]}
        return "".join([f"{self.kind}{where},weight={self.weight:g}", *(f",{name}={value}" for name, value in changed.items())])

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss; the teacher's map is resized to the student's (bilinear), and no gradient goes to it.

        Args:
            student: (N, C, H, W).
            teacher: (N, C', h, w).
            labels: (N, Y, X) train ids.
        """
        kind = KINDS[self.kind]
        wanted = teacher.detach().float()
        if wanted.shape[2:] != student.shape[2:]:
            wanted = F.interpolate(wanted, student.shape[2:], mode="bilinear", align_corners=False)
        more = (labels,) if kind.labels else ()
        return self.weight * kind.function(student.float(), wanted, *more, **self.options)


def _setting(kind: str, setting: str, text: str) -> tuple[str, Any]:
    name, equals, value = setting.partition("=")
    known: Mapping[str, Any] = {"weight": 1.0, **KINDS[kind].options}
    if not equals or name not in known:
        raise UserError(f"the loss {kind} of {text!r} has no option {setting!r}.{nearest(name, known)}", _EXAMPLE)
    return name, _choice(name, value) if name in _CHOICES else _number(name, value, type(known[name]), text)


def _choice(name: str, value: str) -> str:
    if value not in _CHOICES[name]:
        raise UserError(f"{name}={value} is none of {', '.join(_CHOICES[name])}.{nearest(value, _CHOICES[name])}")
    return value


def _number(name: str, value: str, kind: type[Any], text: str) -> Any:
    may_be_zero = name in ("inter", "intra", "strength")
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not (0 <= number < float("inf")) or (number == 0 and not may_be_zero):
        raise UserError(f"{name}={value} in {text!r} is not {'0 or more' if may_be_zero else 'above 0'}.", _EXAMPLE)
    return number
