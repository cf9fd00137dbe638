"""``segc export``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.engine import EnginePrecision, FlavourName, Plugins, Request, build, refuse_without_engine, request
from segc.cli.source import config_and_weights
from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError
from segc.core.files import write_bytes
from segc.runtime.bundle import Manifest, is_bundle, read_manifest

CALIBRATION = "calibration.json"
_PANEL = "Engine"


class Output(StrEnum):
    """What the graph gives."""

    ARGMAX = "argmax"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"


class Precision(StrEnum):
    """Number format of the graph."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FP16 = "int8-fp16"
    BF16 = "bf16"


QUANTIZED = (Precision.INT8, Precision.INT8_FP16)
LOWERED = (Precision.FP16, Precision.INT8_FP16, Precision.BF16)


class Exporter(StrEnum):
    """Which of torch's exporters makes the graph."""

    DYNAMO = "dynamo"
    TORCHSCRIPT = "torchscript"


@verb
def export(
    source: Annotated[
        str, typer.Argument(help="A config (path, mmseg::NAME.py, segc::NAME.py), a checkpoint with its config, or a bundle.")
    ],
    bundle: Annotated[Path | None, typer.Option("-o", "--bundle", help="Folder to write; a bundle that is there is replaced.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the config: .safetensors or .pth.")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of the graph; int8 needs a table (segc calibrate); int8-fp16: what int8 leaves in float is fp16; bf16: opset 22, "
            "checked in OpenVINO. Default: fp32."
        ),
    ] = None,
    engine: Annotated[
        EnginePrecision | None,
        typer.Option(help="Also build a TensorRT engine of this precision, of the graph of this precision.", rich_help_panel=_PANEL),
    ] = None,
    flavour: Annotated[
        FlavourName | None,
        typer.Option(help="TensorRT-RTX, TensorRT 10 or 11. Default: the TensorRT that is installed, else RTX.", rich_help_panel=_PANEL),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="Of the GPU the engine is for, e.g. 8.6. Default: the GPU here.", rich_help_panel=_PANEL)
    ] = None,
    plugins: Annotated[
        Plugins | None,
        typer.Option(help="Our operators as plugins, or as their ONNX bodies. Default: auto (says what it chose).", rich_help_panel=_PANEL),
    ] = None,
    plugin_library: Annotated[
        list[Path] | None, typer.Option(help="Library of the plugins. Default: one of segc plugins list.", rich_help_panel=_PANEL)
    ] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE: workspace_mib, min, opt, max, dla_core, ...: see docs/engines.md.", rich_help_panel=_PANEL),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even where the same engine was built before.", rich_help_panel=_PANEL)
    ] = False,
    input_size: Annotated[str | None, typer.Option(help="Size of the images, HxW or 'dynamic'. Default: the config's.")] = None,
    network_size: Annotated[str | None, typer.Option(help="Size of the network's input, HxW or 'input'. Default: the config's.")] = None,
    batch: Annotated[str, typer.Option(help="Images a run: N or 'dynamic'.")] = "1",
    output: Annotated[Output, typer.Option(help="What the graph gives; slide inference always gives logits.")] = Output.ARGMAX,
    images: Annotated[
        Path | None,
        typer.Option(help="Real images to check the graph on. Default: validation images."),
    ] = None,
    verify_images: Annotated[int, typer.Option(min=1, help="How many of them.")] = 4,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Least share of pixels that must agree with torch.")] = 0.999,
    max_logit_error: Annotated[float, typer.Option(min=0, help="Largest logit error, as a share of the largest logit.")] = 1e-3,
    exporter: Annotated[Exporter, typer.Option(help="torch.export (dynamo) or tracing.")] = Exporter.DYNAMO,
    opset: Annotated[int, typer.Option(min=17, help="ONNX operator set.")] = 20,
    simplify: Annotated[bool, typer.Option(help="Fold and fuse the graph with onnxslim.")] = True,
    calibration: Annotated[Path | None, typer.Option(help="Calibration table for int8, copied into the bundle. Default: its own.")] = None,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="int8: take each layer's mean error on the calibration images from its bias.")
    ] = False,
    calibration_images: Annotated[
        Path | None, typer.Option(help="Folder of the table's images, for --bias-correction. Default: the bundle's training split.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a dotted key of the config.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Export without weights: for speed measurements only.")] = False,
) -> Outcome:
    """Export a network as one verified ONNX deploy graph in a bundle, or add a graph of another precision to a bundle.

    Example: segc export segc::quickstart/quickstart.py --weights best.safetensors -o bundle/

    Example: segc export bundle/ --precision int8

    Example: segc export bundle/ --engine fp16 --flavour rtx --compute-capability 8.6
    """
    folder = _folder(source, bundle)
    asked = None
    if engine is not None:
        asked = request(engine, flavour, compute_capability, engine_option or [])
    else:
        given = {"flavour": flavour, "compute_capability": compute_capability, "plugins": plugins, "plugin_library": plugin_library}
        refuse_without_engine(**given, engine_option=engine_option, rebuild=rebuild)
    precision = _graph_precision(precision, asked)
    manifest = read_manifest(folder) if is_bundle(source) else None
    made = manifest is not None and precision.value in manifest.graphs
    if made and not asked and precision is Precision.FP32:
        raise UserError(f"{source} is a bundle, its fp32 graph is there already.", f"To add int8: segc export {source} --precision int8")
    _check_correction(precision, bias_correction, calibration_images)
    if precision in QUANTIZED and not (made and asked):
        _require_table(source, folder, calibration)
    if manifest is None:
        from segc.export.exporter import export_network
        from segc.export.verify import Limits
        from segc.train.overrides import parse_overrides

        config, file = config_and_weights(source, weights)
        manifest = export_network(
            config,
            file,
            folder,
            input_size=parse_size(input_size, "dynamic", "--input-size"),  # type: ignore[arg-type]
            network_size=parse_size(network_size, "input", "--network-size"),  # type: ignore[arg-type]
            batch=parse_batch(batch),
            output=output.value,
            opset=opset,
            exporter=exporter.value,
            simplify=simplify,
            images=images,
            verify_images=verify_images,
            limits=Limits(max_logit_error, min_agreement),
            overrides=parse_overrides(override or []),
            random_weights=random_weights,
        )
    if not (made and asked):
        correction = {"bias_correction": bias_correction, "calibration_images": calibration_images}
        manifest = _lowered(folder, precision, calibration, images, correction) or manifest
    if asked:
        return build(folder, asked, plugins or Plugins.AUTO, plugin_library or [], rebuild)
    return _outcome(folder, manifest, precision.value)


def _lowered(
    folder: Path, precision: Precision, calibration: Path | None, images: Path | None, correction: dict[str, Any]
) -> Manifest | None:
    """Add the int8 or 16-bit graph to the bundle; None for fp32, which it has."""
    manifest = None
    if precision in QUANTIZED:
        from segc.compress.quantize import quantize_bundle, quantized_before

        if calibration is not None:
            write_bytes(folder / CALIBRATION, calibration.read_bytes())
        # What int8-fp16 is made from may be there already.
        if precision is Precision.INT8 or not quantized_before(folder, correction["bias_correction"]):
            manifest = quantize_bundle(folder, images=images, **correction)
    if precision in LOWERED:
        from segc.compress.half import halve_bundle

        manifest = halve_bundle(folder, precision.value, images=images)
    return manifest


def _graph_precision(given: Precision | None, asked: Request | None) -> Precision:
    """The graph to make: the engine's, which may not be named otherwise; fp32 where neither is given.

    Raises:
        UserError: --precision and --engine name two.
    """
    if asked is None:
        return given or Precision.FP32
    needed = Precision(asked.graph)
    if given not in (None, needed):
        raise UserError(
            f"--engine {asked.precision.value} is built from the {needed.value} graph, not from {given}.", "Leave --precision out."
        )
    return needed


def parse_size(text: str | None, word: str, option: str) -> tuple[int, int] | str | None:
    """``HxW`` or ``N`` (square) as (height, width); ``word`` and None as they are.

    Raises:
        UserError: anything else.
    """
    if text is None or text == word:
        return text
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(part.isdecimal() and int(part) > 0 for part in parts):
        return int(parts[0]), int(parts[-1])
    raise UserError(f"{option} is {text!r}; expected HxW in pixels or {word!r}.", f"{option} 512x1024")


def parse_batch(text: str) -> int | None:
    """``N`` as an integer, ``dynamic`` as None.

    Raises:
        UserError: anything else.
    """
    if text == "dynamic":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UserError(f"--batch is {text!r}; expected a number of images or 'dynamic'.", "--batch 1")


def _folder(source: str, bundle: Path | None) -> Path:
    """Where the graph goes: into the bundle given as the source, else ``-o``."""
    if not is_bundle(source):
        if bundle is None:
            raise UserError("no output folder was given.", "Add -o bundle/")
        return bundle
    if bundle is not None and bundle.resolve() != Path(source).resolve():
        raise UserError(f"{source} is a bundle already; -o {bundle} names another one.", "Leave -o out: the graph goes into the source.")
    return Path(source)


def _check_correction(precision: Precision, bias_correction: bool, calibration_images: Path | None) -> None:
    """Refuse options that would have no effect."""
    if bias_correction and precision not in QUANTIZED:
        raise UserError(f"--bias-correction is for int8 graphs; --precision is {precision.value}.", "--precision int8")
    if calibration_images is not None and not bias_correction:
        raise UserError("--calibration-images is read for --bias-correction only.", "Add --bias-correction.")


def _require_table(source: str, folder: Path, calibration: Path | None) -> None:
    """int8 without ranges of real images would be a guess: say what makes them, before any work is done."""
    if calibration is not None and not calibration.is_file():
        raise UserError(f"calibration table {calibration} does not exist.", f"segc calibrate {folder}")
    if calibration is None and not (is_bundle(source) and (folder / CALIBRATION).is_file()):
        first = "" if is_bundle(source) else f"First export fp32 (leave --precision out), then: segc calibrate {folder}, then: "
        fix = f"{first}segc export {folder} --precision int8" if first else f"segc calibrate {folder}"
        raise UserError("int8 needs a calibration table of real images, and there is none.", fix)


def _outcome(folder: Path, manifest: Manifest, precision: str) -> Outcome:
    graph = manifest.graphs[precision]
    size = (folder / graph.file).stat().st_size / 2**20
    contract = manifest.contract
    shape = "x".join("any" if axis is None else str(axis) for axis in (contract.batch, contract.height, contract.width))
    told = f"{precision} graph {folder / graph.file}: {shape} images, {contract.num_classes} classes, {size:.1f} MiB, opset {graph.opset}"
    parity = graph.parity
    if precision != "fp32":
        told += f"; the class of {parity['conditions']['against']} on {100 * parity['pixel_agreement']:.2f} % of the pixels"
        told += f", {len(graph.notes['kept_in_fp32'])} nodes kept in fp32" if "kept_in_fp32" in graph.notes else ""
    elif "pixel_agreement" in parity:
        told += (
            f"; equal to torch on {parity['n_images']} images ({100 * parity['pixel_agreement']:.3f} % of the pixels, "
            f"logits within {parity['relative_logit_error']:.1e})"
        )
    data = {"bundle": str(folder), "precision": precision, "graph": graph.model_dump(mode="json")}
    return Outcome(told + ".", {**data, "contract": contract.model_dump(mode="json")}, ["Next:", *_next_commands(folder, precision)])


def _next_commands(folder: Path, precision: str) -> list[str]:
    name = shlex.quote(str(folder))
    if precision != "fp32":
        where = " --backend openvino" if precision == Precision.BF16 else ""
        return [f"  segc validate {name}@{precision} --against {name}@fp32{where}", f"  segc benchmark {name}", f"  segc report {name}"]
    return [f"  segc predict IMAGE --model {name} -o out/", f"  segc calibrate {name}", f"  segc export {name} --precision int8"]
