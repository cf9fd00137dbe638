"""What passes between the stages of one image, in one form for both pipelines, so that any stage can be taken from either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

STAGES = ("decode", "resize", "normalize", "windows", "logits", "upsample", "argmax")

Box = tuple[int, int, int, int]
Array = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """One image after each stage; None after stages that were not run.

    decode: uint8 RGB (H, W, 3). resize: float32 RGB grey levels at the network's size (h, w, 3). normalize: the network's input (3, h, w),
    not padded. windows: (y1, x1, y2, x2) of each pass of the network. logits: what the network gives for each, (K, a, b). upsample:
    logits that the class is decided on (K, H, W). argmax: class of every pixel (H, W).
    """

    path: Path
    decode: Any = None
    resize: Any = None
    normalize: Any = None
    windows: Any = None
    logits: Any = None
    upsample: Any = None
    argmax: Any = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.decode.shape[:2]
        return height, width

    def before(self, stage: str) -> Trace:
        """Without what ``stage`` and those after it gave."""
        cleared: dict[str, Any] = dict.fromkeys(STAGES[STAGES.index(stage) :])
        return replace(self, **cleared)

    def after(self, stage: str, value: Any) -> Trace:
        """With what ``stage`` gave."""
        return replace(self, **{stage: value})


class Pipeline(Protocol):
    """One side of the comparison: a function a stage, of all that came before it."""

    @property
    def steps(self) -> Mapping[str, Callable[[Trace], Any]]:
        """Stage -> its function."""


def follow(pipeline: Pipeline, trace: Trace) -> Trace:
    """Run the stages that the trace lacks.

    Raises:
        Misfit: what it holds does not fit into this pipeline.
    """
    for stage in STAGES:
        if getattr(trace, stage) is None:
            trace = trace.after(stage, pipeline.steps[stage](trace))
    return trace


def equal(first: Any, second: Any) -> bool:
    """Whether a stage gave the same, bit by bit."""
    if isinstance(first, list):
        return len(first) == len(second) and all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    return np.array_equal(first, second)


def average(maps: Sequence[Array], boxes: Sequence[Box], size: tuple[int, int]) -> Array:
    """Mean of overlapping windows (K, y, x) placed at their boxes: (K, *size). A map beyond its box is cut at the bottom and the right."""
    total = np.zeros((maps[0].shape[0], *size), np.float32)
    count = np.zeros(size, np.float32)
    for values, (y1, x1, y2, x2) in zip(maps, boxes, strict=True):
        total[:, y1:y2, x1:x2] += values[:, : y2 - y1, : x2 - x1]
        count[y1:y2, x1:x2] += 1
    return total / count
