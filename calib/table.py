"""The calibration table: tensor -> range, and everything it depends on. It is reused only while all of that is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segc.core.errors import UserError
from segc.core.files import read_json, sha256_file, write_json

TABLE = "calibration.json"


class CalibrationImage(BaseModel):
    """A calibration image: its file name and the SHA-256 of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str


class CalibrationTable(BaseModel):
    """``calibration.json``: ``ranges`` maps each tensor of the fp32 graph to amax (its symmetric range).

    graph_sha256, contract_sha256: of the graph the ranges were measured on. method, percentile: how. images: on what; seed, select: how
    they were chosen. equalize, smooth_quant, rescaled: the ranges are those of the graph rescaled by these factors
    (``segc.calib.rescale``).
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    method: str
    percentile: float | None
    seed: int
    select: str = "random"
    graph_sha256: str
    contract_sha256: str
    images: list[CalibrationImage]
    ranges: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    equalize: bool = False
    smooth_quant: float | None = None
    rescaled: dict[str, list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]] = {}
    notes: list[str] = []

    def check_graph(self, graph_sha256: str, contract_sha256: str) -> None:
        """Refuse to be used with another graph or another preprocessing.

        Raises:
            UserError: says which of them differs.
        """
        pairs = (("graph", self.graph_sha256, graph_sha256), ("pipeline contract", self.contract_sha256, contract_sha256))
        for what, mine, other in pairs:
            if mine != other:
                raise UserError(
                    f"the calibration table was measured with another {what} ({mine[:12]}..., now {other[:12]}...).",
                    "Calibrate again: segc calibrate BUNDLE --images DIR",
                )

    def find_images(self, candidates: Sequence[Path]) -> list[Path]:
        """The files among ``candidates`` that the ranges were measured on, by name and content.

        Raises:
            UserError: one of them is not there, or the images are not known.
        """
        named: dict[str, list[Path]] = {}
        for path in candidates:
            named.setdefault(path.name, []).append(path)
        found = [_with_content(named.get(image.name, []), image.sha256) for image in self.images]
        missing = [image.name for image, path in zip(self.images, found, strict=True) if path is None]
        if missing or not found:
            told = f"{len(missing)} of {len(found)} calibration images ({', '.join(missing[:3])})" if missing else "calibration images"
            raise UserError(
                f"the table's {told} are not among the {len(candidates)} images to look in.", "Name their folder: --calibration-images DIR"
            )
        return [path for path in found if path is not None]


def _with_content(paths: Sequence[Path], sha256: str) -> Path | None:
    return next((path for path in paths if sha256_file(path) == sha256), None)


def read_table(path: Path | str) -> CalibrationTable:
    """Read a calibration table.

    Raises:
        UserError: missing or not a table.
    """
    data = read_json(path)
    try:
        return CalibrationTable.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{path} is not a calibration table: {where}: {problem['msg']}.", "segc calibrate BUNDLE --images DIR") from error


def write_table(path: Path | str, table: CalibrationTable) -> None:
    """Write a calibration table atomically."""
    write_json(path, table.model_dump(mode="json"))
