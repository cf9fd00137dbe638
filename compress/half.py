"""The 16-bit form of a bundle's fp32 graph (fp16, bf16) or int8 graph (int8-fp16), with an overflow analysis on real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from segc.compress.cast import BF16, FP16, Format, cast_graph, keep_in_fp32
from segc.compress.mixed import ANALYSED_IMAGES, check_scales, largest_magnitudes
from segc.compress.quantize import compare, known_nodes
from segc.compress.scales import floor_weight_scales
from segc.core.errors import CheckFailed, UserError, nearest
from segc.core.files import atomic_path, sha256_file
from segc.export.exporter import verification_images
from segc.export.onnx_graph import opset_of
from segc.export.verify import pick
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.bundle import Graph, Manifest, graph_file, graph_path, read_manifest, write_manifest
from segc.runtime.runner import backends_for

# Precision of a graph -> precision of the graph it is made from.
HALF = {"fp16": "fp32", "int8-fp16": "int8", "bf16": "fp32"}
# bf16 rounds eight times as coarsely as fp16.
LEAST_AGREEMENT = {"fp16": 0.99, "int8-fp16": 0.99, "bf16": 0.97}
_FIRST_OPSET_WITH_BF16 = 22


def halve_bundle(
    bundle: Path | str,
    precision: str,
    *,
    keep: Sequence[str] = (),
    images: Sequence[Path] | Path | None = None,
    least_agreement: float | None = None,
    threads: int | None = None,
) -> Manifest:
    """Add a 16-bit float graph to a bundle.

    Args:
        bundle: a bundle with the graph that ``precision`` is made from.
        precision: a name of ``HALF``.
        keep: names of nodes to leave in fp32.
        images: real images to measure magnitudes on and to compare the graphs on; None takes the bundle's validation images.
        least_agreement: share of pixels with the same class as the source graph below which the graph is refused; None takes the format's.
        threads: CPU threads of the analysis.

    Raises:
        UserError: an unknown precision or node, no images, a Q/DQ graph of an opset without 16-bit scales, a bf16 graph of a network with
            operators of ours, or no backend here that runs bf16.
        CheckFailed: the graph disagrees with its source.
    """
    if precision not in HALF:
        raise UserError(f"unknown precision {precision!r}.{nearest(precision, HALF)}")
    bundle, source = Path(bundle), HALF[precision]
    manifest = read_manifest(bundle)
    path = graph_path(bundle, manifest, source)
    model = load_graph(path)
    kept_by_name = known_nodes(model, keep)
    check_scales(model)
    chosen = pick(verification_images(images, manifest.provenance.get("data")), ANALYSED_IMAGES)
    magnitudes = largest_magnitudes(model, manifest.contract, chosen, threads)
    target = BF16 if precision == "bf16" else FP16
    model = _with_forms(floor_weight_scales(model, target.smallest), target)
    kept = keep_in_fp32(model, target, magnitudes, kept_by_name)
    written = bundle / graph_file(precision)
    with atomic_path(written) as temporary:
        onnx.save(cast_graph(model, target, kept), temporary)
        parity = compare(path, temporary, chosen, source, backends_for(precision))
        _check_agreement(parity, precision, source, LEAST_AGREEMENT[precision] if least_agreement is None else least_agreement)
    graph = _graph(written, model, manifest.graphs[source], target, kept, parity)
    manifest = manifest.model_copy(update={"graphs": {**manifest.graphs, precision: graph}})
    write_manifest(bundle, manifest)
    return manifest


def _with_forms(model: onnx.ModelProto, target: Format) -> onnx.ModelProto:
    """The graph in an operator set that has forms of the format: convolutions got theirs for bf16 in opset 22."""
    if target is not BF16 or opset_of(model) >= _FIRST_OPSET_WITH_BF16:
        return model
    if model.functions:
        told = ", ".join(sorted({function.name for function in model.functions}))
        raise UserError(f"ONNX's converter cannot raise a graph with {told} to opset 22, where bf16 begins.", "Use --precision fp16.")
    raised: onnx.ModelProto = onnx.version_converter.convert_version(model, _FIRST_OPSET_WITH_BF16)
    return raised


def _check_agreement(parity: dict[str, Any], precision: str, source: str, least: float) -> None:
    if parity["pixel_agreement"] < least:
        raise CheckFailed(
            f"the {precision} graph gives the class of the {source} graph on {100 * parity['pixel_agreement']:.2f} % of the pixels of "
            f"{parity['n_images']} images; {100 * least:g} % are needed. Nothing was written. Keep sensitive nodes in fp32 (keep=)."
        )


def _graph(path: Path, model: onnx.ModelProto, source: Graph, target: Format, kept: dict[str, str], parity: dict[str, Any]) -> Graph:
    notes = {**source.notes, "float": target.name, "kept_in_fp32": kept, "analysed_images": parity["n_images"]}
    return Graph(file=path.name, sha256=sha256_file(path), opset=opset_of(model), parity=parity, notes=notes)
