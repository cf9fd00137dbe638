"""The engine options of ``segc export``: what they ask for, checked before any work, and how what was built is told."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from segc.cli.verb import Outcome
from segc.core.errors import UserError


class EnginePrecision(StrEnum):
    """What an engine computes in: that of the graph it is built from."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FP16 = "int8-fp16"
    BF16 = "bf16"
    FP8 = "fp8"


class FlavourName(StrEnum):
    """Which TensorRT."""

    RTX = "rtx"
    TEN = "10"
    ELEVEN = "11"


class Plugins(StrEnum):
    """Whether our operators become plugins."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def _refuse_fp8(precision: EnginePrecision) -> None:
    """Say why there is no fp8 engine.

    Raises:
        UserError: it was asked for.
    """
    if precision is EnginePrecision.FP8:
        raise UserError(
            "--engine fp8 cannot be had: it needs Q/DQ nodes in FP8 (e4m3) and a GPU of compute capability 8.9 or later; the calibration "
            "here gives int8 ranges, and no engine on a CPU could check such a graph.",
            "--engine int8, or int8-fp16.",
        )


@dataclass(frozen=True)
class Request:
    """What was asked for, checked against the library and the machine: a ``Flavour``, ``EngineSettings``, and ``graph``, its precision."""

    precision: EnginePrecision
    flavour: Any
    settings: Any
    graph: str


def request(precision: EnginePrecision, flavour: FlavourName | None, compute_capability: str | None, options: Sequence[str]) -> Request:
    """Check the options.

    Raises:
        UserError: fp8, an option out of its range, a library or GPU that does not fit.
    """
    from segc.export.engine.add import check_request, source_of
    from segc.export.engine.settings import parse_settings

    _refuse_fp8(precision)
    settings = parse_settings(options, compute_capability=compute_capability)
    found = check_request(flavour and flavour.value, precision.value, settings)
    return Request(precision, found, settings, source_of(precision.value, settings))


def refuse_without_engine(**given: Any) -> None:
    """Refuse options of an engine that would have no effect.

    Raises:
        UserError: names the first one given.
    """
    for name, value in given.items():
        if value:
            raise UserError(f"--{name.replace('_', '-')} is for an engine, and --engine is not given.", "Add --engine fp16.")


def build(bundle: Path, asked: Request, plugins: Plugins, libraries: Sequence[Path], rebuild: bool) -> Outcome:
    """Build and tell."""
    from segc.export.engine.add import add_engine

    precision = asked.precision.value
    built = add_engine(
        bundle,
        precision,
        asked.settings,
        flavour=asked.flavour,
        plugins=plugins.value,
        libraries=libraries,
        rebuild=rebuild,
    )
    entry = built.engine
    target = f"compute capability {entry.compute_capability}" + (f" ({entry.gpu})" if entry.gpu else ", built without that GPU")
    how = "kept from an earlier build of the same graph and settings" if built.from_cache else f"{entry.notes['seconds']:.1f} s"
    size = (bundle / entry.file).stat().st_size / 2**20
    summary = f"{precision} engine {bundle / entry.file}: {asked.flavour.title}, {target}, {size:.1f} MiB, {how}; {_matrix(built.proof)}."
    view = [
        _table(built.proof),
        f"{built.form}.",
        "The same build without segc:",
        f"  {shlex.join(['cd', str(bundle)])} && {entry.command}",
    ]
    data = {"bundle": str(bundle), "engine": entry.model_dump(mode="json"), "form": built.form, "proof": built.proof}
    return Outcome(summary, {**data, "from_cache": built.from_cache}, view)


def _matrix(proof: dict[str, Any]) -> str:
    counts = proof["layers"].get("matrix", {})
    return "convolutions and matrix products: " + (", ".join(f"{int(count)} in {name}" for name, count in counts.items()) or "none")


def _table(proof: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="Layers of the engine by what they compute in")
    roles = list(proof["layers"])
    for name in ("computes in", *roles):
        table.add_column(name, justify="left" if name == "computes in" else "right")
    for precision in sorted({name for counts in proof["layers"].values() for name in counts}):
        table.add_row(precision, *(f"{proof['layers'][role].get(precision, 0):g}" for role in roles))
    return table
