"""The pipeline contract: everything outside the weights that decides the class map. It exists once, in the bundle.

The same JSON is stored in the ONNX file's metadata (key ``segc.contract``), so that a bare ``.onnx`` says what it is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

CONTRACT_KEY = "segc.contract"
# Metadata of a graph whose floats were lowered: the name of the format.
FLOAT_KEY = "segc.float"
# A deploy graph's input.
INPUT = "images"

# A contract may be anyone's: what it asks for is bounded before memory is taken for it.
LARGEST_SIDE, LARGEST_PIXELS, LARGEST_BATCH, MOST_CLASSES = 1 << 16, 1 << 28, 1 << 12, 1 << 14
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = tuple[Side, Side]
Colour = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]
Level = Annotated[float, Field(allow_inf_nan=False)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resize(_Strict):
    """How the image becomes the network's input, as mmseg's ``Resize`` and ``ResizeToMultiple`` do it (bilinear, half-pixel centres).

    mode: ``none`` (network sees the image's own size), ``stretch`` (to ``size``), ``keep_ratio`` (the largest scale at which the
        image fits into ``size`` in either orientation: mmcv's ``rescale_size``).
    size: (height, width); for ``keep_ratio`` the bounding box.
    multiple: in a second resize both sides are stretched up to a multiple of it; 1 for none.
    in_graph: True when the deploy graph does it; False when the host does it (slide inference).
    """

    mode: Literal["none", "stretch", "keep_ratio"] = "none"
    size: Size | None = None
    multiple: Side = 1
    in_graph: bool = True

    @model_validator(mode="after")
    def _size_when_needed(self) -> Resize:
        if (self.size is None) != (self.mode == "none"):
            raise ValueError(f"resize mode {self.mode!r} with size {self.size}: 'none' takes no size, the others need one")
        return self

    @property
    def resizes(self) -> bool:
        """True when an image may change its size."""
        return self.mode != "none" or self.multiple > 1

    def steps(self, height: int, width: int) -> list[Size]:
        """The sizes that an image of ``height`` x ``width`` is resized to, one after the other, without those it already has."""
        steps = [(height, width)]
        if self.size is not None:
            steps.append(self.size if self.mode == "stretch" else self._fitted(height, width))
        if self.multiple > 1:
            height, width = steps[-1]
            steps.append((-(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple))
        return [after for before, after in pairwise(steps) if after != before]

    def network_size(self, height: int, width: int) -> Size:
        """(height, width) at which the network sees an image of ``height`` x ``width``."""
        return [(height, width), *self.steps(height, width)][-1]

    def _fitted(self, height: int, width: int) -> Size:
        """The largest size of that shape that fits into the box, as mmcv's ``rescale_size`` rounds it."""
        box: Size = self.size or (height, width)
        scale = min(max(box) / max(height, width), min(box) / min(height, width))
        return int(height * float(scale) + 0.5), int(width * float(scale) + 0.5)


class Inference(_Strict):
    """``whole``: one pass over the image. ``slide``: windows of ``crop_size`` every ``stride`` (height, width), logits averaged."""

    mode: Literal["whole", "slide"] = "whole"
    crop_size: Size | None = None
    stride: Size | None = None

    @model_validator(mode="after")
    def _windows_when_slide(self) -> Inference:
        needed = self.mode == "slide"
        if needed != (self.crop_size is not None) or needed != (self.stride is not None):
            raise ValueError(f"inference mode {self.mode!r} with crop_size {self.crop_size}, stride {self.stride}")
        return self


class Contract(_Strict):
    """What the deploy graph takes and gives.

    The graph's input ``images`` is uint8 NHWC, RGB; (batch, height, width), None where that axis is dynamic. Its output is
    ``class_map`` (uint8, or int32 above 256 classes; N,H,W), ``logits`` or ``probabilities`` (float32 N,K,H,W), always at the input's
    height and width. ``mean``/``std`` are per RGB channel on the 0..255 scale and are applied inside the graph.
    """

    classes: list[str] = Field(min_length=1, max_length=MOST_CLASSES)
    palette: list[Colour]
    ignore_index: int = Field(default=255, ge=0, le=65535)
    batch: Annotated[int, Field(ge=1, le=LARGEST_BATCH)] | None = 1
    height: Side | None
    width: Side | None
    mean: tuple[Level, Level, Level]
    std: tuple[Scale, Scale, Scale]
    resize: Resize = Field(default_factory=Resize)
    size_divisor: Side = 1
    inference: Inference = Field(default_factory=Inference)
    output: Literal["argmax", "logits", "probabilities"] = "argmax"
    align_corners: bool = False

    @model_validator(mode="after")
    def _one_colour_a_class(self) -> Contract:
        if len(self.classes) != len(self.palette):
            raise ValueError(f"{len(self.classes)} classes but {len(self.palette)} palette colours")
        return self

    @model_validator(mode="after")
    def _not_too_large(self) -> Contract:
        for what, size in (("images", self.static_size), ("resize", self.resize.size), ("windows", self.inference.crop_size)):
            pixels = (self.batch or 1) * size[0] * size[1] if size else 0
            if pixels > LARGEST_PIXELS:
                raise ValueError(f"{what} of {size} in batches of {self.batch or 1} are {pixels} pixels, at most {LARGEST_PIXELS} are run")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def class_dtype(self) -> np.dtype:
        """dtype of a class map: uint8 up to 256 classes, int32 above."""
        return np.dtype(np.uint8 if self.num_classes <= 256 else np.int32)

    @property
    def static_size(self) -> Size | None:
        """(height, width) of a static graph, None when either is dynamic."""
        return None if self.height is None or self.width is None else (self.height, self.width)
