"""Trials: one graph scored on labelled images, image by image, and how far its logits are from fp32's. Each is kept by content."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segc.core.errors import UserError
from segc.core.files import read_json, sha256_file, sha256_files, sha256_json, write_json
from segc.core.images import read_image
from segc.core.progress import track
from segc.core.rows import package_version
from segc.data.dataset import SegmentationSet, open_dataset
from segc.export.surgery import decided_on, drop_unused
from segc.export.verify import pick
from segc.pipeline.executor import TRIAL_THREADS, Executor
from segc.runtime.runner import BACKENDS, open_runner
from segc.runtime.segmenter import network_inputs
from segc.runtime.target import Target
from segc.validate.confusions import Confusions, load_confusions, save_confusions
from segc.validate.scoring import counted, open_lanes
from segc.validate.sides import Side

SQNR_IMAGES = 8
_VERSION = 1
_LARGEST_BEL = 20.0
_SIDE = "target"


@dataclass(frozen=True)
class Plan:
    """What all trials of a run share: the labelled images (the first ``limit`` of a split) and the backend."""

    root: str
    layout: str | None
    split: str
    limit: int | None
    backend: str

    @property
    def dataset(self) -> SegmentationSet:
        """The split."""
        return open_dataset(self.root, self.layout, self.split)


@dataclass(frozen=True)
class Trial:
    """confusions: one matrix an image. sqnr: signal to quantization noise of the logits on some images, in dB; none for fp32 itself."""

    confusions: Confusions
    sqnr: list[float]


class Trials:
    """Runs graphs against the fp32 graph and keeps what came out in ``folder``; a trial that lies there is not run again."""

    def __init__(self, folder: Path, plan: Plan, reference: Path, executor: Executor) -> None:
        self.folder = folder
        self.plan = plan
        self.reference = reference
        self.executor = executor
        pairs = list(plan.dataset)[: plan.limit]
        if len(pairs) < 2:
            raise UserError(
                f"{len(pairs)} labelled image in {plan.root}: an interval of a drop needs two or more.", "Give more: --limit, --data"
            )
        versions = [package_version(name) for name in (BACKENDS[plan.backend].package, "numpy", "opencv-python-headless")]
        content = sha256_files(path for pair in pairs for path in (pair.image, pair.label))
        self._shared = [_VERSION, sha256_file(reference), content, plan.backend, TRIAL_THREADS, SQNR_IMAGES, versions]

    def run(self, graphs: Sequence[Path], what: str) -> list[Trial]:
        """The trials of some deploy graphs, in their order; ``what`` is told as progress."""
        keys = [sha256_json([*self._shared, sha256_file(path)]) for path in graphs]
        missing = {key: path for key, path in zip(keys, graphs, strict=True) if not self._file(key, "json").is_file()}
        jobs = [(path.read_bytes(),) for path in missing.values()]
        names = list(missing)
        found = self.executor.run(run_trial, jobs, (self.reference.read_bytes(), self.plan))
        for index, trial in track(found, what, len(jobs)):
            save_confusions(self._file(names[index], "npz"), {_SIDE: trial.confusions})
            write_json(self._file(names[index], "json"), {"sqnr": trial.sqnr})
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> Trial:
        confusions = load_confusions(self._file(key, "npz"))[_SIDE]
        return Trial(confusions, read_json(self._file(key, "json"))["sqnr"])

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key[:32]}.{suffix}"


def run_trial(graph: bytes, reference: bytes, plan: Plan) -> Trial:
    """Score one deploy graph; runs in any process that sees the dataset."""
    dataset = plan.dataset
    pairs = list(dataset)[: plan.limit]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trial.onnx").write_bytes(graph)
        lanes = open_lanes(Side.of(str(folder / "trial.onnx"), plan.backend), None, dataset, TRIAL_THREADS)
        confusions = Confusions(dataset.spec.num_classes)
        for counts in counted(lanes, dataset, pairs):
            confusions.extend(counts.scored.matrices)
        for lane in lanes:
            lane.first.runner.close()
        images = pick([pair.image for pair in pairs], SQNR_IMAGES)
        sqnr = _sqnr(graph, reference, images, plan.backend, folder) if graph != reference else []
    return Trial(confusions, sqnr)


def _sqnr(graph: bytes, reference: bytes, images: Sequence[Path], backend: str, folder: Path) -> list[float]:
    """10 log10(sum y^2 / sum (y - x)^2) of the logits x against fp32's y, an image each; none where the graph shows no logits."""
    models = [logits_graph(onnx.load_from_string(content)) for content in (reference, graph)]
    runners = []
    for index, model in enumerate(models):
        if model is None:
            return []
        onnx.save(model, folder / f"logits{index}.onnx")
        runners.append(open_runner(Target(folder / f"logits{index}.onnx", "onnx"), backend, TRIAL_THREADS))
    full, small = runners
    found = []
    for path in images:
        batch = np.stack(network_inputs(read_image(path), full.contract)[:1] * (full.contract.batch or 1))
        found.append(decibels(full.run(batch), small.run(batch)))
    for runner in runners:
        runner.close()
    return found


def decibels(signal: NDArray[Any], approximation: NDArray[Any]) -> float:
    """Signal to noise ratio of an approximation, within 200 dB: JSON has no infinity for equal ones."""
    noise = np.square(signal.astype(np.float64) - approximation).sum()
    power = np.square(signal.astype(np.float64)).sum()
    ratio = np.clip(power / noise, 10**-_LARGEST_BEL, 10**_LARGEST_BEL) if noise else 10**_LARGEST_BEL
    return float(10 * np.log10(ratio))


def logits_graph(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph up to the tensor that the class is decided on; itself where it gives logits, None where it decides in another way."""
    name = decided_on(model)
    if name is None:
        return None
    if name == model.graph.output[0].name:
        return model
    inferred = onnx.shape_inference.infer_shapes(model)
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.extend(item for item in inferred.graph.value_info if item.name == name)
    drop_unused(cut)
    return cut
