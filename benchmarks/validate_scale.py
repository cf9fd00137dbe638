"""Memory of ``segc validate`` on sets of up to 10^5 images: the peak of the process that runs it, and what an image adds to it.

    python -m benchmarks.validate_scale [IMAGES]

The images are tiny, links to the same few; the graph compares a sample with a constant, so that what is measured is the streaming and the
bookkeeping, not a network. Results: benchmarks/results/validate_scale.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.validate import _peak_mib
from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.files import write_json
from segc.core.images import write_image
from segc.core.rows import Row, environment

RESULTS = Path(__file__).parent / "results" / "validate_scale.json"
IMAGES, SMALLER, DISTINCT, SIZE = 100_000, 100, 16, (16, 24)
CONTRACT = Contract(
    classes=["dark", "bright"], palette=[(0, 0, 128), (255, 200, 0)], height=SIZE[0], width=SIZE[1], mean=(0, 0, 0), std=(1, 1, 1)
)  # fmt: skip


def main(images: int = IMAGES) -> None:
    """Measure, print and store."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_graph(folder / "model.onnx")
        for count in (max(1, images // SMALLER), images):
            rows += _rows(folder, make_set(folder / f"set{count}", count), count)
    peaks = [row.value for row in rows if row.unit == "MiB"]
    growth = 1024 * (peaks[1] - peaks[0]) / (images - max(1, images // SMALLER))
    rows.append(Row(metric="memory that an image adds", value=growth, unit="KiB", n=1, conditions={"images": images}))
    write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})
    for row in rows:
        print(f"{row.metric:45s} {row.value:10.2f} {row.unit}")


def _rows(folder: Path, root: Path, count: int) -> list[Row]:
    result = folder / "result.json"
    words = ["validate", str(folder / "model.onnx"), "--against", str(folder / "model.onnx"), "--data", str(root), "--resamples", "0"]
    start = time.perf_counter()
    peak = _peak_mib([*words, "--threads", "1", "--output", str(result), "--json"])
    rate = count / (time.perf_counter() - start)
    assert json.loads(result.read_text())["dataset"]["n"] == count
    conditions = {"images": count, "size": SIZE, "threads": 1, "backend": "onnxruntime", "against": "the same graph"}
    return [
        Row(metric=f"peak memory, {count} images", value=peak, unit="MiB", n=1, conditions=conditions),
        Row(metric=f"images a second with start and end, {count} images", value=rate, unit="images/s", n=1, conditions=conditions),
    ]


def save_graph(path: Path) -> None:
    """A deploy graph that gives 1 where the red sample is above 127."""
    shape = [1, *SIZE]
    nodes = [
        helper.make_node("Gather", ["images", "zero"], ["red"], axis=3),
        helper.make_node("Greater", ["red", "half"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["class_map"], to=TensorProto.UINT8),
    ]
    constants = [helper.make_tensor("zero", TensorProto.INT64, [], [0]), helper.make_tensor("half", TensorProto.UINT8, [], [127])]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [*shape, 3])
    output = helper.make_tensor_value_info("class_map", TensorProto.UINT8, shape)
    graph = helper.make_graph(nodes, "threshold", [images], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {CONTRACT_KEY: CONTRACT.model_dump_json()})
    onnx.save(model, path)


def make_set(root: Path, count: int) -> Path:
    """``count`` names for a few random images and labels."""
    rng = np.random.default_rng(0)
    for kind, shape, top in (("images", (*SIZE, 3), 256), ("labels", SIZE, 2)):
        folder = root / kind / "val"
        for index in range(DISTINCT):
            write_image(root / f"{kind}{index}.png", rng.integers(0, top, shape, np.uint8))
        folder.mkdir(parents=True)
        for index in range(count):
            (folder / f"{index:06d}.png").symlink_to(root / f"{kind}{index % DISTINCT}.png")
    write_json(root / "dataset.json", {"name": "threshold", "classes": CONTRACT.classes})
    return root


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
