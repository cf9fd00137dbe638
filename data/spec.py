"""What the pixels of a label file mean: class names, colours, and the way from the stored values to train ids."""

from __future__ import annotations

import json
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segc.core.errors import UserError, nearest
from segc.core.files import read_json

Colour = tuple[int, int, int]

SPEC_FILES = ("dataset.json", "classes.json")


class DatasetSpec(BaseModel):
    """Classes of a dataset and the meaning of its stored label values; ``dataset.json`` holds exactly these keys.

    classes, palette: name and RGB colour of train ids 0..K-1; an empty palette becomes the PASCAL VOC colour sequence.
    ignore_index: train id that no metric and no loss counts.
    reduce_zero_label: stored 0 means ignore and stored v means train id v-1 (ADE20K), as mmseg does it.
    label_map: stored value (after ``reduce_zero_label``) -> train id, applied at once, never in a chain; values not named keep theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    classes: tuple[str, ...] = Field(min_length=1)
    palette: tuple[Colour, ...] = ()
    ignore_index: int = Field(default=255, ge=0, le=65535)
    reduce_zero_label: bool = False
    label_map: dict[int, int] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill_palette(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("palette") and isinstance(values.get("classes"), (list, tuple)):
            return {**values, "palette": [voc_colour(index) for index in range(len(values["classes"]))]}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes but {len(self.palette)} palette colours")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class name occurs twice")
        if any(not 0 <= channel <= 255 for colour in self.palette for channel in colour):
            raise ValueError("a palette colour is not three numbers 0..255")
        if self.ignore_index < self.num_classes:
            raise ValueError(f"ignore_index {self.ignore_index} is one of the {self.num_classes} train ids")
        unknown = {new for new in self.label_map.values() if new != self.ignore_index and not 0 <= new < self.num_classes}
        if unknown:
            raise ValueError(f"label_map leads to {sorted(unknown)}, which are neither train ids nor ignore_index {self.ignore_index}")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def label_dtype(self) -> np.dtype:
        """dtype of train-id maps: uint8 when the classes and ``ignore_index`` fit into it, else int32."""
        return np.dtype(np.uint8 if self.ignore_index <= 255 else np.int32)

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """Train id of each 16-bit stored value, (65536,) int32; -1 where the value means nothing in this dataset."""
        values = np.arange(1 << 16, dtype=np.int32)
        if self.reduce_zero_label:
            values = np.where((values == 0) | (values == self.ignore_index), self.ignore_index, values - 1).astype(np.int32)
        meant = (values < self.num_classes) | (values == self.ignore_index)
        table = np.where(meant, values, np.int32(-1))
        for old, new in self.label_map.items():
            table[values == old] = new
        return table

    @cached_property
    def valid8(self) -> NDArray[np.uint8]:
        """1 where an 8-bit stored value has a train id, else 0: (256,) uint8."""
        return (self.table[:256] >= 0).astype(np.uint8)

    @cached_property
    def table8(self) -> NDArray[np.int32] | NDArray[np.uint8]:
        """``table`` of the 8-bit stored values in ``label_dtype``, (256,); read it only where ``valid8``."""
        return np.maximum(self.table[:256], 0).astype(self.label_dtype)

    def to_json(self) -> dict[str, Any]:
        """The content of a ``dataset.json``."""
        return self.model_dump(mode="json")


def voc_colour(index: int) -> Colour:
    """Colour ``index`` of the PASCAL VOC sequence: the bits of the index, spread over the channels from the highest bit down."""
    channels = [0, 0, 0]
    for level in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * level + channel) & 1) << (7 - level)
    return channels[0], channels[1], channels[2]


@cache
def known_specs() -> dict[str, DatasetSpec]:
    """Classes and palettes of the public datasets (ADE20K, Cityscapes, COCO-Stuff, CamVid), by layout name."""
    tables = json.loads(resources.files("segc.data").joinpath("classes.json").read_text(encoding="utf-8"))
    specs = {name: DatasetSpec(name=name, **table) for name, table in tables.items()}
    specs["coco_stuff10k"] = specs["coco_stuff"].model_copy(update={"name": "coco_stuff10k", "reduce_zero_label": True})
    return specs


def read_spec(root: Path) -> DatasetSpec | None:
    """The spec that ``dataset.json`` or ``classes.json`` (keys of ``DatasetSpec``, or a list of names) in ``root`` tells, or None.

    Raises:
        UserError: the file is not JSON, has an unknown key, or contradicts itself.
    """
    path = next((root / name for name in SPEC_FILES if (root / name).is_file()), None)
    if path is None:
        return None
    value = read_json(path)
    if isinstance(value, list):
        value = {"classes": value}
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object or a list of class names.")
    try:
        return DatasetSpec.model_validate({"name": root.resolve().name, **value})
    except ValidationError as error:
        raise UserError(f"{path} is not a dataset description: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}.{nearest(where, DatasetSpec.model_fields)}"
    return f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}."
