"""The bundle: a folder that holds a deploy graph per precision, the pipeline contract, provenance and results.

bundle/
    bundle.json            Manifest (this module)
    model.onnx             fp32 deploy graph
    model.int8.onnx        other precisions, one file each
    engines/               TensorRT engines: <flavour>-<version>-sm<capability>/<precision>.engine, and what its layers are beside it
    calibration.json       calibration table, when there is one
    results/*.json         what was measured (validation, benchmark)
    report/                report.html, report.md, report.json
"""

from __future__ import annotations

import reprlib
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segc.core.contract import Contract
from segc.core.errors import UserError, nearest
from segc.core.files import read_json, sha256_file, write_json

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
RESULTS = "results"


# Precisions and backends become parts of file names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


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


class Profile(BaseModel):
    """Shapes an engine takes, each (batch, height, width) of the uint8 NHWC images; a static engine has three equal ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: tuple[int, int, int]
    opt: tuple[int, int, int]
    max: tuple[int, int, int]

    def contains(self, shape: tuple[int, int, int]) -> bool:
        """True when the engine runs images of this (batch, height, width)."""
        return all(low <= value <= high for low, value, high in zip(self.min, shape, self.max, strict=True))


class Engine(BaseModel):
    """One TensorRT engine of the bundle, and all that decides whether a machine can run it.

    file, sha256: relative, inside the bundle. precision: what it computes in. graph_sha256: of the graph in ``graphs`` it was built from
    (its SHA-256 then): that of its precision, fp32's for implicit int8.
    flavour: ``rtx`` (TensorRT-RTX), ``10`` or ``11`` (TensorRT); version: of the library that built it, as it tells it ("10.3.0.26").
    compute_capability: of the GPU it is for ("8.6"); gpu: the GPU's name where it was built on it, None where it was built without one.
    machine: the builder's processor and system ("x86_64 Linux"): an engine runs on no other.
    hardware_compatible, version_compatible: whether later GPUs, later versions run it too. weights_stripped: it must be refitted first.
    dla_core: the DLA core it is for, None for the GPU. plugins: file name -> SHA-256 of the libraries whose layers it holds;
    plugins_embedded: they travel inside the engine (the runtime has to allow host code). settings: of the build, as its option names say.
    command: the same build as a trtexec line. notes: free data of the builder (seconds, layers, peak memory).
    """

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str
    precision: str
    graph_sha256: str
    flavour: Literal["rtx", "10", "11"]
    version: str
    compute_capability: str
    gpu: str | None = None
    machine: str
    profile: Profile
    hardware_compatible: bool = False
    version_compatible: bool = False
    weights_stripped: bool = False
    dla_core: int | None = None
    plugins: dict[str, str] = Field(default_factory=dict)
    plugins_embedded: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)
    command: str
    notes: dict[str, Any] = Field(default_factory=dict)

    @property
    def source(self) -> str:
        """Precision of the graph it was built from."""
        return "fp32" if self.settings.get("implicit_int8") else self.precision


class Manifest(BaseModel):
    """``bundle.json``. ``provenance`` holds hashes of the source config, weights and calibration data, and tool versions.

    ``preferred`` is the fastest target that stayed exact: {"precision": "int8", "backend": "openvino"}.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    name: str
    contract: Contract
    graphs: dict[Name, Graph]
    engines: list[Engine] = Field(default_factory=list)
    preferred: dict[str, Name] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] | None = None


def graph_file(precision: str) -> str:
    """File name of a precision's graph inside a bundle: ``model.onnx`` for fp32, ``model.<precision>.onnx`` otherwise."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def result_file(folder: Path | str, kind: str, precision: str, backend: str) -> Path:
    """Where a bundle keeps what was measured of a precision's graph on a backend: ``validation``, ``benchmark``, ``parity``, ..."""
    return Path(folder) / RESULTS / f"{kind}.{precision}.{backend}.json"


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
    for file in [*(graph.file for graph in manifest.graphs.values()), *(engine.file for engine in manifest.engines)]:
        _inside(Path(folder), file)
    return manifest


def write_manifest(folder: Path | str, manifest: Manifest) -> None:
    """Write ``bundle.json`` atomically. Write it last: the graphs it names must be in place."""
    write_json(Path(folder) / MANIFEST, manifest.model_dump(mode="json"))


def copy_fp32(source: Path | str, folder: Path | str) -> Manifest:
    """Copy a bundle into ``folder`` with its fp32 graph alone: results, reports, engines, other graphs and the preference stay behind."""
    ignored = shutil.ignore_patterns("results", "report", "engines", "model.*.onnx")
    shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)
    manifest = read_manifest(folder)
    manifest = manifest.model_copy(update={"graphs": {"fp32": manifest.graphs["fp32"]}, "engines": [], "preferred": {}})
    write_manifest(folder, manifest)
    return manifest


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
    return _verified(Path(folder), graph, "Export the bundle again.")


def is_of_its_graph(manifest: Manifest, engine: Engine) -> bool:
    """True when an engine was built from the graph that the bundle holds now."""
    graph = manifest.graphs.get(engine.source)
    return graph is not None and graph.sha256 == engine.graph_sha256


def graph_precision(manifest: Manifest, precision: str) -> str:
    """Precision of the graph that runs in a precision: the same; where there is none, of the graph its engine was built from."""
    built = {engine.precision: engine.source for engine in manifest.engines}
    return precision if precision in manifest.graphs else built.get(precision, precision)


def engine_file(engine: Engine) -> str:
    """Where an engine lies inside its bundle: one file for each flavour, version, compute capability, DLA and precision."""
    target = f"sm{engine.compute_capability.replace('.', '')}{'' if engine.dla_core is None else '-dla'}"
    return f"engines/{'rtx' if engine.flavour == 'rtx' else 'trt'}-{engine.version}-{target}/{engine.precision}.engine"


def engine_path(folder: Path | str, engine: Engine) -> Path:
    """Path of an engine of a bundle, its content hash verified.

    Raises:
        UserError: the file is missing, or its content changed since it was built.
    """
    return _verified(Path(folder), engine, f"Build it again: {build_command(folder, engine.precision, engine.flavour == 'rtx')}")


def build_command(folder: Path | str, precision: str, rtx: bool) -> str:
    """What builds an engine of a bundle for this machine; without ``rtx`` with the TensorRT that is installed."""
    return f"segc export {folder} --engine {precision}{' --flavour rtx' if rtx else ''}"


def _verified(folder: Path, item: Graph | Engine, fix: str) -> Path:
    path = _inside(folder, item.file)
    if not path.is_file():
        raise UserError(f"bundle {folder} names {item.file}, which is not there.", fix)
    found = sha256_file(path)
    if found != item.sha256:
        raise UserError(
            f"{path} was altered after it was written: its SHA-256 is {found[:12]}..., bundle.json says {item.sha256[:12]}...", fix
        )
    return path


def first_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first problem pydantic found as one sentence: where, what; an unknown key gets the nearest known name."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and model is not None:
        key = str(problem["loc"][-1])
        return f"unknown key {where!r}.{nearest(key, _known_keys(model, problem['loc'][:-1]))}"
    return f"{where}: {problem['msg']} (found {reprlib.repr(problem.get('input'))})"


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
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"bundle {folder} names a file outside itself: {name!r}.")
    return path
