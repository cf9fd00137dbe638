"""Post-training quantization: the fp32 graph of a bundle and a calibration table -> one int8 Q/DQ graph for every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from segc.calib.calibrate import contract_hash
from segc.calib.rescale import rescaled
from segc.calib.select import images_in, training_set
from segc.calib.table import TABLE, CalibrationTable, read_table
from segc.compress.bias import Correction, correct_biases
from segc.compress.mixed import float_nodes, largest_magnitudes, lower_blocks
from segc.compress.placement import REASON_USER, WEIGHTED, Placement, place
from segc.compress.qdq import insert_qdq
from segc.core.contract import CONTRACT_KEY
from segc.core.errors import CheckFailed, UserError, nearest
from segc.core.files import atomic_path, sha256_file
from segc.core.images import read_image
from segc.core.progress import track
from segc.export.exporter import verification_images
from segc.export.onnx_graph import opset_of
from segc.export.tensorrt_rules import check_qdq
from segc.export.verify import pick
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.bundle import Graph, Manifest, graph_file, graph_path, read_manifest, write_manifest
from segc.runtime.runner import installed_backends, open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target

PRECISION = "int8"
LEAST_AGREEMENT = 0.9
CHECK_IMAGES = 4


def quantize_bundle(
    bundle: Path | str,
    *,
    table: Path | None = None,
    keep: Sequence[str] = (),
    chains: bool = True,
    bias_correction: bool = False,
    calibration_images: Path | None = None,
    images: Sequence[Path] | Path | None = None,
    least_agreement: float = LEAST_AGREEMENT,
    precisions: Mapping[str, str] | None = None,
) -> Manifest:
    """Add ``model.int8.onnx`` to a bundle.

    Args:
        bundle: a bundle with an fp32 graph.
        table: calibration table; None takes the bundle's ``calibration.json``.
        keep: names of nodes to leave in float.
        chains: keep Add, Relu, MaxPool, Concat and Resize between int8 convolutions in int8 too.
        bias_correction: take the mean error of each layer, measured on the calibration images, from its bias.
        calibration_images: the folder where these lie; None looks in the bundle's training split.
        images: to compare the int8 graph with the fp32 graph on; None takes the bundle's validation images.
        least_agreement: share of pixels with the same class below which the graph is refused: it guards against a broken graph,
            the accuracy itself is for ``segc validate``.
        precisions: block -> precision, see ``segc.compress.mixed``; the others are int8.

    Raises:
        UserError: no table, a table of another graph, an unknown name of a node, block or precision, or calibration images that are
            not there.
        CheckFailed: TensorRT would refuse the graph (each node is named), or it disagrees with fp32.
    """
    bundle = Path(bundle)
    manifest = read_manifest(bundle)
    fp32 = graph_path(bundle, manifest, "fp32")
    ranges = bundle_table(bundle, table, manifest)
    corrected_on = _calibration_images(bundle, ranges, calibration_images) if bias_correction else []
    model = rescaled(load_graph(fp32), ranges.rescaled)
    placement = place(model, known_nodes(model, keep) | float_nodes(model, precisions or {}), chains)
    quantized = quantize_graph(model, ranges.ranges, placement)
    notes = _notes(placement, ranges, table or bundle / TABLE) | ({"precisions": dict(precisions)} if precisions else {})
    if bias_correction:
        correction = correct_biases(model, quantized, corrected_on, manifest.contract)
        quantized, notes = correction.model, {**notes, "bias_correction": _told(correction, len(corrected_on))}
    quantized = lower_blocks(model, quantized, precisions or {}, lambda: _magnitudes(model, images, manifest))
    path = bundle / graph_file(PRECISION)
    with atomic_path(path) as temporary:
        onnx.save(quantized, temporary)
        parity = compare(fp32, temporary, _check_images(images, manifest))
        if parity["pixel_agreement"] < least_agreement:
            raise CheckFailed(
                f"the int8 graph gives the class of the fp32 graph on {100 * parity['pixel_agreement']:.2f} % of the pixels of "
                f"{parity['n_images']} images; {100 * least_agreement:g} % are needed. Nothing was written. "
                "Calibrate on more images, with --method mse or percentile, or keep sensitive nodes in float (keep=)."
            )
    return _record(bundle, manifest, path, quantized, parity, notes)


def quantized_before(bundle: Path, bias_correction: bool) -> bool:
    """Whether a bundle's int8 graph was made of its table as it is now, of all nodes, with the same choice of ``bias_correction``.

    Raises:
        UserError: the graph's file is not the one that the manifest tells.
    """
    manifest = read_manifest(bundle)
    graph = manifest.graphs.get(PRECISION)
    if graph is None or not (bundle / TABLE).is_file():
        return False
    graph_path(bundle, manifest, PRECISION)
    bundle_table(bundle, None, manifest)
    notes = graph.notes
    chosen = "precisions" in notes or REASON_USER in notes["kept_in_float"].values()
    same = notes["calibration"].get("table_sha256") == sha256_file(bundle / TABLE)
    return same and not chosen and ("bias_correction" in notes) == bias_correction


def quantize_graph(model: ModelProto, ranges: Mapping[str, float], placement: Placement) -> ModelProto:
    """The int8 Q/DQ form of an fp32 graph, checked against ONNX's and TensorRT's rules.

    Raises:
        UserError: nothing to quantize, or a tensor without a range.
        CheckFailed: a rule is broken; each offending node is named.
    """
    if not any(node.op_type in WEIGHTED and node.name in set(placement.quantized) for node in model.graph.node):
        raise UserError("nothing is left to quantize: the graph has no convolution or matrix product that may become int8.")
    quantized = insert_qdq(model, placement, ranges)
    onnx.checker.check_model(quantized)
    broken = check_qdq(quantized)
    if broken:
        told = "; ".join(f"{item.node}: {item.detail}" for item in broken[:8])
        raise CheckFailed(f"TensorRT would refuse {len(broken)} nodes of the int8 graph: {told}.")
    return quantized


def compare(
    full: Path, lowered: Path, images: Sequence[Path], against: str = "fp32", backends: Sequence[str] | None = None
) -> dict[str, Any]:
    """Share of pixels to which both graphs give the same class, on each of the backends; the least of them decides.

    Args:
        full, lowered: the graph of precision ``against``, and the one made from it.
        images: real ones.
        backends: names; None takes all that are installed.

    Raises:
        UserError: no images, or no backend.
    """
    if not images:
        raise UserError(f"there are no images to compare the new graph with {against} on.", "Give real images.")
    backends = installed_backends() if backends is None else backends
    if not backends:
        raise UserError("no backend that is installed here runs this precision, so it cannot be checked.", "pip install openvino")
    by_backend = {backend: agreement(full, lowered, images, backend) for backend in backends}
    return {
        "pixel_agreement": min(by_backend.values()),
        "by_backend": by_backend,
        "n_images": len(images),
        "conditions": {"against": against},
    }


def agreement(full: Path, lowered: Path, images: Sequence[Path], backend: str) -> float:
    """Share of the images' pixels to which two graphs give the same class on one backend."""
    runners = [open_runner(Target(path, "onnx"), backend) for path in (full, lowered)]
    first, second = (Segmenter(runner) for runner in runners)
    same = pixels = 0
    for path in track(images, f"comparing the graphs on {backend}"):
        image = read_image(path)
        equal = first.class_map(image) == second.class_map(image)
        same, pixels = same + int(equal.sum()), pixels + equal.size
    for runner in runners:
        runner.close()
    return same / pixels


def bundle_table(bundle: Path, table: Path | None, manifest: Manifest) -> CalibrationTable:
    """The calibration table of a bundle, or one given for it.

    Raises:
        UserError: there is none, or it is of another graph or preprocessing.
    """
    path = table or bundle / TABLE
    if not path.exists():
        raise UserError(f"int8 needs a calibration table; {path} does not exist.", f"segc calibrate {bundle} --images DIR")
    found = read_table(path)
    found.check_graph(manifest.graphs["fp32"].sha256, contract_hash(manifest.contract))
    return found


def known_nodes(model: ModelProto, keep: Sequence[str]) -> frozenset[str]:
    """``keep`` as a set.

    Raises:
        UserError: a name that no node of the graph has; the nearest is told.
    """
    names = {node.name for node in model.graph.node}
    for name in keep:
        if name not in names:
            raise UserError(f"the graph has no node {name!r}.{nearest(name, names)}")
    return frozenset(keep)


def _check_images(images: Sequence[Path] | Path | None, manifest: Manifest) -> list[Path]:
    return pick(verification_images(images, manifest.provenance.get("data")), CHECK_IMAGES)


def _magnitudes(model: ModelProto, images: Sequence[Path] | Path | None, manifest: Manifest) -> dict[str, float]:
    return largest_magnitudes(model, manifest.contract, verification_images(images, manifest.provenance.get("data")))


def _calibration_images(bundle: Path, table: CalibrationTable, folder: Path | None) -> list[Path]:
    return table.find_images(images_in(folder) if folder else training_set(bundle).image_paths)


def _notes(placement: Placement, table: CalibrationTable, path: Path) -> dict[str, Any]:
    calibration = {"method": table.method, "images": len(table.images), "seed": table.seed, "notes": table.notes}
    calibration["table_sha256"] = sha256_file(path)
    rescaling = {"equalize": table.equalize, "smooth_quant": table.smooth_quant, "rescaled_tensors": len(table.rescaled)}
    calibration |= rescaling if table.rescaled else {}
    return {"quantized_nodes": len(placement.quantized), "kept_in_float": placement.kept, "calibration": calibration}


def _told(correction: Correction, images: int) -> dict[str, Any]:
    return {"images": images, "shifts_rms": correction.shifts, "skipped": correction.skipped}


def _record(bundle: Path, manifest: Manifest, path: Path, model: ModelProto, parity: dict[str, Any], notes: dict[str, Any]) -> Manifest:
    graph = Graph(file=path.name, sha256=sha256_file(path), opset=opset_of(model), parity=parity, notes=notes)
    manifest = manifest.model_copy(update={"graphs": {**manifest.graphs, PRECISION: graph}})
    assert CONTRACT_KEY in {prop.key for prop in model.metadata_props}
    write_manifest(bundle, manifest)
    return manifest
