"""A bundle's graph -> an engine in the bundle: checks, form, build or cache, proof of precision, record."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from segc.calib.table import TABLE, read_table
from segc.calib.tensorrt_cache import write_cache
from segc.core.errors import UserError
from segc.core.files import atomic_path, sha256_file, write_json
from segc.export.engine import cache, layers, proof
from segc.export.engine.build import run_job
from segc.export.engine.command import command_line
from segc.export.engine.flavour import Flavour, backend_of, check, find_flavour
from segc.export.engine.form import Choice, Form, choose_form, without_bodies
from segc.export.engine.settings import EngineSettings, profile_of
from segc.export.engine.worker import Done, Job
from segc.export.tensorrt_rules import check_qdq
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.bundle import Engine, Manifest, Profile, engine_file, graph_path, read_manifest, write_manifest
from segc.runtime.engines import this_system
from segc.runtime.gpu import Gpu, find_gpu

_TOLD = 3
_FIRST_WITH_BF16 = 8.0


@dataclass(frozen=True)
class Built:
    """What came of it: the bundle's entry, the form of the graph and why, the proof of precision, whether it was kept from before."""

    engine: Engine
    form: str
    proof: dict[str, Any]
    from_cache: bool


@dataclass(frozen=True)
class _Plan:
    """All that is decided before the build."""

    flavour: Flavour
    settings: EngineSettings
    gpu: Gpu | None
    graph: Path
    graph_sha256: str
    profile: Profile
    form: Form
    compute_capability: str


def source_of(precision: str, settings: EngineSettings) -> str:
    """Precision of the graph an engine is built from: its own, but fp32 where TensorRT itself chooses what becomes int8."""
    return "fp32" if settings.implicit_int8 else precision


def check_request(flavour_name: str | None, precision: str, settings: EngineSettings) -> Flavour:
    """Refuse what cannot be built here, before any graph is made.

    Raises:
        UserError: see ``find_flavour`` and ``flavour.check``; bf16 for a GPU without it; implicit int8 of another precision than int8.
    """
    flavour = find_flavour(flavour_name)
    target = check(flavour, settings, find_gpu())
    if precision == "bf16" and float(target) < _FIRST_WITH_BF16:
        raise UserError(
            f"--engine bf16: GPUs of compute capability {target} have no bf16; {_FIRST_WITH_BF16} was the first.", "--engine fp16"
        )
    if settings.implicit_int8 and precision != "int8":
        raise UserError(f"implicit_int8 makes an int8 engine, and --engine is {precision}.", "--engine int8")
    return flavour


def add_engine(
    bundle: Path | str,
    precision: str,
    settings: EngineSettings | None = None,
    *,
    flavour: Flavour | None = None,
    plugins: Choice = "auto",
    libraries: Sequence[Path] = (),
    rebuild: bool = False,
) -> Built:
    """Build an engine of a bundle's graph of this precision and record it in the bundle.

    Args:
        bundle: a bundle that holds the graph.
        plugins, libraries: see ``choose_form``.
        rebuild: do not take an engine that was kept from an earlier build.

    Raises:
        UserError: the graph, the settings, the library or the machine do not fit.
        CheckFailed: TensorRT refuses the graph, or the engine does not compute in this precision (then nothing is recorded).
    """
    bundle, settings = Path(bundle), settings or EngineSettings()
    flavour = flavour or check_request(None, precision, settings)
    manifest = read_manifest(bundle)
    plan = _plan(bundle, manifest, precision, settings, flavour, plugins, libraries)
    entry = _entry(plan, precision)
    with tempfile.TemporaryDirectory() as folder:
        job = _job(plan, bundle, Path(folder))
        entry = entry.model_copy(update={"command": _command(plan, entry, job)})
        made = Path(folder) / "made.engine"
        done, kept = _build(plan, job, made, rebuild)
        listed = layers.parse_layers(done.layers_text)
        found = proof.summary(listed)
        proof.check_precision(found, precision)
        entry = entry.model_copy(update={"sha256": sha256_file(made), "notes": _notes(done, found)})
        with atomic_path(bundle / entry.file) as temporary:
            shutil.copyfile(made, temporary)
    write_json((bundle / entry.file).with_suffix(".layers.json"), {**found, "all": layers.to_json(listed)})
    others = [item for item in manifest.engines if item.file != entry.file]
    write_manifest(bundle, manifest.model_copy(update={"engines": [*others, entry]}))
    return Built(entry, plan.form.reason, found, kept)


def _plan(
    bundle: Path,
    manifest: Manifest,
    precision: str,
    settings: EngineSettings,
    flavour: Flavour,
    plugins: Choice,
    libraries: Sequence[Path],
) -> _Plan:
    gpu, source = find_gpu(), source_of(precision, settings)
    path = graph_path(bundle, manifest, source)
    model = load_graph(path)
    _check_pairs(model, path)
    target = check(flavour, settings, gpu)
    form = choose_form(model, plugins, flavour, target, libraries)
    profile = profile_of(manifest.contract, settings)
    return _Plan(flavour, settings, gpu, path, manifest.graphs[source].sha256, profile, form, target)


def _check_pairs(model: onnx.ModelProto, path: Path) -> None:
    violations = check_qdq(model)
    if violations:
        told = "; ".join(f"{item.node}: {item.detail}" for item in violations[:_TOLD])
        more = f" and {len(violations) - _TOLD} more" if len(violations) > _TOLD else ""
        raise UserError(
            f"{path.name} has Q/DQ nodes that TensorRT does not take ({told}{more}).", "Quantize with segc export BUNDLE --precision int8."
        )


def _job(plan: _Plan, bundle: Path, folder: Path) -> Job:
    """The worker's job; files that only the build needs go into ``folder``."""
    graph, calibration = plan.graph, folder / "calibration.cache"
    if plan.form.libraries:
        graph = folder / plan.graph.name
        onnx.save(without_bodies(load_graph(plan.graph)), graph)
    if plan.settings.implicit_int8:
        write_cache(calibration, read_table(bundle / TABLE).ranges, version=_version_number(plan.flavour.version))
    dynamic = plan.profile.min != plan.profile.max
    shapes = {name: [*getattr(plan.profile, name), 3] for name in ("min", "opt", "max")} if dynamic else None
    timing = cache.timing_cache(plan.flavour, plan.gpu) if plan.settings.timing_cache else None
    return Job(
        backend_of(plan.flavour.name).package,
        str(graph),
        "",
        plan.settings.told(),
        shapes,
        [str(library.path.resolve()) for library in plan.form.libraries],
        str(calibration) if plan.settings.implicit_int8 else None,
        str(timing) if timing else None,
    )


def _version_number(version: str) -> int:
    """10.3.0.26 as 100300, as a calibration cache's first line names it."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return major * 10000 + minor * 100 + patch


def _build(plan: _Plan, job: Job, target: Path, rebuild: bool) -> tuple[Done, bool]:
    """(what the build told, whether it is a kept one); the engine lies at ``target``."""
    others = [library.sha256 for library in plan.form.libraries]
    others += [sha256_file(job.calibration_cache)] if job.calibration_cache else []
    key = cache.engine_key(plan.graph_sha256, {**plan.settings.deciding(), "profile": job.profile}, plan.flavour, plan.gpu, others)
    if not rebuild and (kept := cache.take(key, target)):
        return kept, True
    job.engine = str(target)
    done = run_job(job, plan.flavour.title, plan.settings.timeout_s)
    cache.keep(key, target, done)
    return done, False


def _entry(plan: _Plan, precision: str) -> Engine:
    settings = plan.settings
    entry = Engine(
        file="",
        sha256="",
        precision=precision,
        graph_sha256=plan.graph_sha256,
        flavour=plan.flavour.name,
        version=plan.flavour.version,
        compute_capability=plan.compute_capability,
        gpu=plan.gpu.name if plan.gpu and plan.gpu.compute_capability == plan.compute_capability else None,
        machine=this_system(),
        profile=plan.profile,
        hardware_compatible=settings.hardware_compatible,
        version_compatible=settings.version_compatible,
        weights_stripped=settings.strip_weights,
        dla_core=settings.dla_core,
        plugins={library.path.name: library.sha256 for library in plan.form.libraries},
        plugins_embedded=bool(plan.form.libraries),
        settings=settings.told(),
        command="",
    )
    return entry.model_copy(update={"file": engine_file(entry)})


def _command(plan: _Plan, entry: Engine, job: Job) -> str:
    libraries = [library.path for library in plan.form.libraries]
    calibration = "calibration.cache" if job.calibration_cache else None
    return command_line(plan.flavour, plan.settings, plan.profile, plan.graph.name, entry.file, libraries, calibration)


def _notes(done: Done, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": round(done.seconds, 3),
        "peak_mib": round(done.peak_mib, 1),
        "engine_bytes": done.engine_bytes,
        "network_layers": done.layers,
        "layers": found["layers"],
        "reformats": found["reformats"],
    }
