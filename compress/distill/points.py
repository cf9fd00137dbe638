"""Where a network is listened to: a module by its name, and which item of its output."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segc.core.errors import UserError

_POINT = re.compile(r"(?P<module>[\w.]+)(\[(?P<item>\d+)\])?")
_NAMES = 5


@dataclass(frozen=True)
class Point:
    """The output of a module, or one item of it where it gives several (``backbone[3]``)."""

    module: str
    item: int | None = None

    @classmethod
    def parse(cls, text: str) -> Point:
        """``decode_head.conv_seg`` or ``backbone[3]``.

        Raises:
            UserError: the text is neither.
        """
        found = _POINT.fullmatch(text)
        if not found:
            raise UserError(f"{text!r} names no module's output; expected a name such as decode_head.conv_seg or backbone[3].")
        return cls(found["module"], int(found["item"]) if found["item"] else None)

    def __str__(self) -> str:
        return self.module if self.item is None else f"{self.module}[{self.item}]"


def last_head(model: nn.Module) -> Point:
    """The head that predicts, whose output are the logits: the last one of a cascade."""
    head = model.decode_head
    return Point(f"decode_head.{len(head) - 1}" if isinstance(head, nn.ModuleList) else "decode_head")


class Taps:
    """Listens to some points of a network.

    Args:
        model: the network.
        points: where to listen.
        whose: the network's name in messages: "student", "teacher".

    Raises:
        UserError: a module that the network does not have; the message lists names like it.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point], whose: str) -> None:
        self.points, self.whose = list(points), whose
        self._modules = {point.module: _module(model, point.module, whose) for point in points}

    @contextmanager
    def listening(self) -> Iterator[Callable[[], list[Tensor]]]:
        """A function that gives the outputs of the points, in their order, after the network ran once in the context.

        Raises (the function):
            UserError: a module did not run, ran several times, or its output is no feature map.
        """
        heard: dict[str, list[Any]] = {name: [] for name in self._modules}
        # Not forward hooks: mmseg calls its heads' forward directly when it trains.
        for name, module in self._modules.items():
            module.__dict__["forward"] = _heard_by(module.forward, heard[name].append)
        try:
            yield lambda: [self._output(point, heard[point.module]) for point in self.points]
        finally:
            for module in self._modules.values():
                del module.__dict__["forward"]

    def _output(self, point: Point, heard: list[Any]) -> Tensor:
        if len(heard) != 1:
            times = f"{len(heard)} times" if heard else "not"
            raise UserError(f"the {self.whose}'s {point.module} ran {times} in one pass of the network, so that its output is not known.")
        output = heard[0]
        if point.item is not None and isinstance(output, (list, tuple)) and point.item < len(output):
            output = output[point.item]
        elif point.item is not None or not isinstance(output, Tensor):
            raise UserError(f"the {self.whose}'s {point} cannot be taken: {point.module} gives {_kind(output)}.", _choice(point, output))
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise UserError(
                f"the {self.whose}'s {point} gives {_kind(output)}; expected a map (N, C, H, W).", "Name a convolution near it."
            )
        return output


def _heard_by(forward: Callable[..., Any], hear: Callable[[Any], None]) -> Callable[..., Any]:
    def listened(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        hear(output)
        return output

    return listened


def _module(model: nn.Module, name: str, whose: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=_NAMES, cutoff=0.5) or [known for known, _ in model.named_children()]
    raise UserError(f"the {whose} has no module {name!r}. Nearest: {', '.join(near)}.")


def _kind(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"{len(output)} items" if isinstance(output, (list, tuple)) else f"a {type(output).__name__}"


def _choice(point: Point, output: Any) -> str:
    several = isinstance(output, (list, tuple)) and len(output)
    return f"Name one of them: {point.module}[0] to {point.module}[{len(output) - 1}]." if several else f"Name {point.module}."
