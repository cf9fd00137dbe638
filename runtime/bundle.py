"""The bundle: a folder that holds a deploy graph per precision, the pipeline contract, provenance and results.

bundle/
    bundle.json            Manifest (this module)
    model.onnx             fp32 deploy graph
    model.int8.onnx        other precisions, one file each
    calibration.json       calibration table, when there is one
    results/*.json         what was measured (validation, benchmark)
    report/                report.html, report.md, report.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segc.core.contract import Contract
from segc.core.errors import UserError, nearest
from segc.core.files import read_json, sha256_file, write_json

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"


class Graph(BaseModel):
    """One deploy graph of the bundle: its file (relative, inside the bundle), its content hash, and the parity measured at export.

    ``notes`` is free data of the stage that wrote it (quantizer settings, nodes kept in fp32 with the reason).
    """

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str
    opset: int
    parity: dict[str, Any] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)


class Manifest(BaseModel):
    """``bundle.json``. ``provenance`` holds hashes of the source config, weights and calibration data, and tool versions.

    ``preferred`` is the fastest target that stayed exact: {"precision": "int8", "backend": "openvino"}.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    name: str
    contract: Contract
    graphs: dict[str, Graph]
    preferred: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] | None = None


def graph_file(precision: str) -> str:
    """File name of a precision's graph inside a bundle: ``model.onnx`` for fp32, ``model.<precision>.onnx`` otherwise."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def is_bundle(path: Path | str) -> bool:
    """True when ``path`` is a folder with a ``bundle.json``."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(folder: Path | str) -> Manifest:
    """Read and check ``bundle.json``.

    Raises:
        UserError: no such bundle, not valid, or written by a newer segc.
    """
    path = Path(folder) / MANIFEST
    data = read_json(path)
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise UserError(f"{path} has schema_version {found!r}, this segc reads {SCHEMA_VERSION}.", "Export the bundle again.")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path} is not a valid manifest: {first_error(error, Manifest)}") from error
    for graph in manifest.graphs.values():
        _inside(Path(folder), graph.file)
    return manifest


def write_manifest(folder: Path | str, manifest: Manifest) -> None:
    """Write ``bundle.json`` atomically. Write it last: the graphs it names must be in place."""
    write_json(Path(folder) / MANIFEST, manifest.model_dump(mode="json"))


def graph_path(folder: Path | str, manifest: Manifest, precision: str) -> Path:
    """Path of a precision's graph, its content hash verified.

    Raises:
        UserError: the bundle has no such precision, the file is missing, or its content changed since the export.
    """
    graph = manifest.graphs.get(precision)
    if graph is None:
        raise UserError(
            f"bundle {folder} has no {precision!r} graph.{nearest(precision, manifest.graphs)}",
            f"segc export {folder} --precision {precision}",
        )
    path = _inside(Path(folder), graph.file)
    if not path.is_file():
        raise UserError(f"bundle {folder} names {graph.file}, which is not there.", "Export the bundle again.")
    found = sha256_file(path)
    if found != graph.sha256:
        raise UserError(
            f"{path} was altered after the export: its SHA-256 is {found[:12]}..., bundle.json says {graph.sha256[:12]}...",
            "Export the bundle again.",
        )
    return path


def first_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first problem pydantic found as one sentence: where, what; an unknown key gets the nearest known name."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and model is not None:
        key = str(problem["loc"][-1])
        return f"unknown key {where!r}.{nearest(key, _known_keys(model, problem['loc'][:-1]))}"
    return f"{where}: {problem['msg']} (found {problem.get('input')!r})"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model reached by following ``path`` from ``model``."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


def _inside(folder: Path, name: str) -> Path:
    """``folder/name``, refused when it leaves the folder: a bundle is untrusted input."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"bundle {folder} names a file outside itself: {name!r}.")
    return path
