"""The networks segc knows: configs, published accuracy, licences (``catalogue.yaml``) and measured counts. Needs no torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

_FOLDER = Path(__file__).parent
COUNTS = _FOLDER / "catalogue_counts.json"


class Counts(BaseModel):
    """Parameters, and multiply-accumulates of one image of the entry's size (``segc.models.complexity``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int
    macs: int


class Entry(BaseModel):
    """A network. ``configs`` and ``miou`` (in %, published) go by dataset; ``size`` is (height, width)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    system: str
    paper: str
    size: tuple[int, int]
    code_licence: str
    weights: str
    configs: dict[str, str]
    miou: dict[str, float]


@cache
def catalogue() -> list[Entry]:
    """Every network, in the order of the file."""
    return [Entry.model_validate(row) for row in yaml.safe_load((_FOLDER / "catalogue.yaml").read_text())]


@cache
def counts() -> dict[str, Counts]:
    """Name -> measured counts."""
    return {name: Counts.model_validate(row) for name, row in json.loads(COUNTS.read_text()).items()}
