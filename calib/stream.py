"""Run a graph on images, as the runtime would feed them, and hand out some of its tensors, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, helper

from segc.core.contract import INPUT, Contract
from segc.core.images import read_image
from segc.core.progress import track
from segc.runtime.segmenter import network_inputs


def stream(
    model: ModelProto, names: Sequence[str], images: Sequence[Path], contract: Contract, doing: str, threads: int | None = None
) -> Iterator[tuple[Path, list[NDArray[Any]]]]:
    """(image, values of the named tensors) of every batch; the graph is not optimised, so that every tensor of it exists.

    Args:
        doing: what the progress line says.
        threads: CPU threads.
    """
    session = _session(model, names, threads)
    for path in track(images, doing):
        for batch in _batches(network_inputs(read_image(path), contract), contract.batch):
            yield path, session.run(list(names), {INPUT: batch})


def _session(model: ModelProto, names: Sequence[str], threads: int | None) -> ort.InferenceSession:
    exposed = ModelProto()
    exposed.CopyFrom(model)
    existing = {item.name for item in model.graph.output}
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in existing)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    return ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _batches(images: list[NDArray[np.uint8]], batch: int | None) -> Iterator[NDArray[Any]]:
    """Batches of the graph's size; one that is not full repeats its last image."""
    size = batch or 1
    for start in range(0, len(images), size):
        group = images[start : start + size]
        yield np.stack(group + [group[-1]] * (size - len(group)))
