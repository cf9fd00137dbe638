"""The fp16 form of a bundle's graph, of the fp32 graph (fp16) or of the int8 one (int8-fp16), with an overflow analysis on real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from segc.compress.cast import FP16, cast_graph, keep_in_fp32
from segc.compress.mixed import ANALYSED_IMAGES, check_scales, largest_magnitudes
from segc.compress.quantize import compare, known_nodes
from segc.compress.scales import floor_weight_scales
from segc.core.errors import CheckFailed, UserError, nearest
from segc.core.files import atomic_path, sha256_file
from segc.export.exporter import verification_images
from segc.export.verify import pick
from segc.runtime.bundle import Graph, Manifest, graph_file, graph_path, read_manifest, write_manifest

# Precision of a graph -> precision of the graph it is made from.
HALF = {"fp16": "fp32", "int8-fp16": "int8"}
LEAST_AGREEMENT = 0.99


def halve_bundle(
    bundle: Path | str,
    precision: str,
    *,
    keep: Sequence[str] = (),
    images: Sequence[Path] | Path | None = None,
    least_agreement: float = LEAST_AGREEMENT,
    threads: int | None = None,
) -> Manifest:
    """Add a 16-bit float graph to a bundle.

    Args:
        bundle: a bundle with the graph that ``precision`` is made from.
        precision: a name of ``HALF``.
        keep: names of nodes to leave in fp32.
        images: real images to measure magnitudes on and to compare the graphs on; None takes the bundle's validation images.
        least_agreement: share of pixels with the same class as the source graph below which the graph is refused.
        threads: CPU threads of the analysis.

    Raises:
        UserError: an unknown precision or node, no images, or a Q/DQ graph of an opset without 16-bit scales.
        CheckFailed: the graph disagrees with its source.
    """
    if precision not in HALF:
        raise UserError(f"unknown precision {precision!r}.{nearest(precision, HALF)}")
    bundle, source = Path(bundle), HALF[precision]
    manifest = read_manifest(bundle)
    path = graph_path(bundle, manifest, source)
    model = onnx.load(path)
    kept_by_name = known_nodes(model, keep)
    check_scales(model)
    chosen = pick(verification_images(images, manifest.provenance.get("data")), ANALYSED_IMAGES)
    magnitudes = largest_magnitudes(path, manifest.contract, chosen, threads)
    model = floor_weight_scales(model, FP16.smallest)
    kept = keep_in_fp32(model, FP16, magnitudes, kept_by_name)
    written = bundle / graph_file(precision)
    with atomic_path(written) as temporary:
        onnx.save(cast_graph(model, FP16, kept), temporary)
        parity = compare(path, temporary, chosen, source)
        _check_agreement(parity, precision, source, least_agreement)
    graph = _graph(written, manifest.graphs[source], kept, parity)
    manifest = manifest.model_copy(update={"graphs": {**manifest.graphs, precision: graph}})
    write_manifest(bundle, manifest)
    return manifest


def _check_agreement(parity: dict[str, Any], precision: str, source: str, least: float) -> None:
    if parity["pixel_agreement"] < least:
        raise CheckFailed(
            f"the {precision} graph gives the class of the {source} graph on {100 * parity['pixel_agreement']:.2f} % of the pixels of "
            f"{parity['n_images']} images; {100 * least:g} % are needed. Nothing was written. Keep sensitive nodes in fp32 (keep=)."
        )


def _graph(path: Path, source: Graph, kept: dict[str, str], parity: dict[str, Any]) -> Graph:
    notes = {**source.notes, "float": FP16.name, "kept_in_fp32": kept, "analysed_images": parity["n_images"]}
    return Graph(file=path.name, sha256=sha256_file(path), opset=source.opset, parity=parity, notes=notes)
