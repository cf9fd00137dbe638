"""Run a bundle's fp32 graph on real images and record the range of every activation that may be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto

from segc.calib.ranges import DEFAULT_PERCENTILE, AbsHistogram, amax_of, check_method
from segc.calib.rescale import choose_factors, rescaled
from segc.calib.select import DEFAULT_COUNT, Images, choose_images, classes_in, default_selection, shared_images
from segc.calib.stream import stream
from segc.calib.table import TABLE, CalibrationImage, CalibrationTable, write_table
from segc.calib.tensorrt_cache import read_cache
from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import sha256_file, sha256_json
from segc.data.dataset import SegmentationSet, open_dataset
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.bundle import Manifest, graph_path, read_manifest

FEW_IMAGES = 8
# Float tensors of lower ranks are shapes and scales.
_LEAST_RANK = 2


def calibrate(
    bundle: Path | str,
    images: Images,
    *,
    method: str = "percentile",
    percentile: float = DEFAULT_PERCENTILE,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    select: str | None = None,
    equalize: bool = False,
    smooth_quant: float | None = None,
    output: Path | None = None,
    threads: int | None = None,
) -> Path:
    """Measure the ranges of a bundle's fp32 graph and write ``calibration.json`` into the bundle.

    Args:
        bundle: a bundle folder with an fp32 graph.
        images: real images to choose from, of the training split rather than of the validation split; with labels or without.
        method: one of ``segc.calib.ranges.METHODS``. percentile: for method ``percentile``.
        count, seed, select: see ``segc.calib.select.choose_images``.
        equalize, smooth_quant: even out channels first, see ``segc.calib.rescale.choose_factors``; the ranges are those of the rescaled
            graph, and the table holds the factors.
        output: where to write the table instead.
        threads: CPU threads.

    Returns:
        The path of the table.

    Raises:
        UserError: no images, an unknown rule, method or percentile, unreadable images, or NaN in the activations.
    """
    bundle = Path(bundle)
    check_method(method, percentile)
    select = select or default_selection(images)
    chosen = choose_images(images, count, seed, select)
    manifest = read_manifest(bundle)
    graph = graph_path(bundle, manifest, "fp32")
    model = load_graph(graph)
    factors = choose_factors(model, manifest.contract, chosen, equalize, smooth_quant, threads)
    histograms = collect(rescaled(model, factors), manifest.contract, chosen, threads)
    table = CalibrationTable(
        method=method,
        percentile=percentile if method == "percentile" else None,
        seed=seed,
        select=select,
        graph_sha256=manifest.graphs["fp32"].sha256,
        contract_sha256=contract_hash(manifest.contract),
        images=[CalibrationImage(name=path.name, sha256=sha256_file(path)) for path in chosen],
        ranges={name: amax_of(histogram, method, percentile) for name, histogram in histograms.items()},
        equalize=equalize,
        smooth_quant=smooth_quant,
        rescaled=factors,
        notes=_notes(images, chosen, manifest),
    )
    path = output or bundle / TABLE
    write_table(path, table)
    return path


def collect(model: ModelProto, contract: Contract, images: Sequence[Path], threads: int | None = None) -> dict[str, AbsHistogram]:
    """Histogram of |x| of every float activation of a graph, over the images as the runtime would feed them.

    Raises:
        UserError: an activation is NaN or infinite; the tensor and the image are named.
    """
    model = onnx.shape_inference.infer_shapes(model)
    histograms = {name: AbsHistogram() for name in _activations(model)}
    for path, values in stream(model, list(histograms), images, contract, "calibrating", threads):
        for (name, histogram), value in zip(histograms.items(), values, strict=True):
            try:
                histogram.update(value)
            except ValueError as error:
                raise UserError(
                    f"tensor {name} holds {error} on {path}: the network is broken or the image is.", "Check the weights."
                ) from error
    return histograms


def contract_hash(contract: Contract) -> str:
    """SHA-256 of what decides the network's input: the contract without what only names or paints the output."""
    return sha256_json(contract.model_dump(mode="json", exclude={"classes", "palette", "output", "ignore_index"}))


def _activations(model: ModelProto) -> list[str]:
    """Names of the float activations of a graph whose shapes are inferred."""
    produced = {name for node in model.graph.node for name in node.output}
    return [item.name for item in model.graph.value_info if item.name in produced and _is_activation(item)]


def _is_activation(item: onnx.ValueInfoProto) -> bool:
    kind = item.type.tensor_type
    return kind.elem_type == onnx.TensorProto.FLOAT and len(kind.shape.dim) >= _LEAST_RANK


def _notes(images: Images, chosen: Sequence[Path], manifest: Manifest) -> list[str]:
    """What a reader of the table should know: few images, images of one class, or images that validation is measured on."""
    few = [f"only {len(chosen)} calibration images: ranges may be too small; {DEFAULT_COUNT} or more are usual"]
    notes = few if len(chosen) < FEW_IMAGES else []
    notes += _few_classes(images, chosen, len(manifest.contract.classes)) if isinstance(images, SegmentationSet) else []
    shared = shared_images(chosen, _validation_images(manifest))
    if shared:
        told = f"{len(shared)} of {len(chosen)} calibration images are validation images too, such as {shared[0].name}"
        notes.append(f"{told}: the drop will look too small")
    return notes


def _few_classes(images: SegmentationSet, chosen: Sequence[Path], classes: int) -> list[str]:
    """A note where the labels show one class or none of more than two; only then are they read."""
    if classes <= 2:
        return []
    seen = classes_in(images, chosen)
    told = f"the labels of all calibration images show {seen[0] if seen else 'no class'} only"
    return [f"{told}: ranges may not hold for the other {classes - len(seen)} classes"] if len(seen) < 2 else []


def _validation_images(manifest: Manifest) -> list[Path]:
    """Images of the split that the bundle is validated on; none where its dataset is not on this machine."""
    data = manifest.provenance.get("data") or {}
    if not data.get("root") or not Path(data["root"]).is_dir():
        return []
    return open_dataset(data["root"], data.get("layout"), data.get("split", "val")).image_paths


def import_cache(bundle: Path | str, cache: Path, output: Path | None = None) -> Path:
    """Make a bundle's table from a TensorRT calibration cache of the same graph (tensors by their ONNX names).

    Raises:
        UserError: not a cache, or none of its tensors is in the fp32 graph.
    """
    bundle, found = Path(bundle), read_cache(cache)
    manifest = read_manifest(bundle)
    graph = load_graph(graph_path(bundle, manifest, "fp32")).graph
    known = {name for node in graph.node for name in node.output} & found.keys()
    if not known:
        raise UserError(
            f"none of the {len(found)} tensors of {cache} is in the fp32 graph of {bundle}.", "Take the cache of this very graph."
        )
    path = output or bundle / TABLE
    table = CalibrationTable(
        method="tensorrt-cache",
        percentile=None,
        seed=0,
        select="unknown",
        graph_sha256=manifest.graphs["fp32"].sha256,
        contract_sha256=contract_hash(manifest.contract),
        images=[],
        ranges={name: found[name] for name in sorted(known)},
        notes=[f"{len(known)} of {len(found)} scales of {cache.name} belong to tensors of this graph; its images are not known"],
    )
    write_table(path, table)
    return path
