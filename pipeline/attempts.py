"""Attempts at a mixed-precision graph of one bundle: built, scored and timed."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segc.calib.rescale import rescaled
from segc.compress.blocks import blocks_of, int8_blocks
from segc.compress.mixed import DEFAULT, INT8, float_nodes, largest_magnitudes, lower_blocks
from segc.compress.placement import place
from segc.compress.quantize import bundle_table, quantize_graph
from segc.core.errors import UserError
from segc.core.files import atomic_path, explain_write_errors, sha256_json
from segc.export.exporter import verification_images
from segc.export.verify import pick
from segc.pipeline.executor import Executor
from segc.pipeline.stopwatch import Stopwatch, Timing
from segc.pipeline.trials import Plan, Trial, Trials
from segc.runtime.backends.onnx_metadata import load_graph
from segc.runtime.bundle import graph_path, read_manifest
from segc.validate.bootstrap import Bootstrap, Interval, paired_drops
from segc.validate.source import data_of

# Block -> precision; blocks that are not named are int8.
Precisions = Mapping[str, str]

LOCK = ".lock"
TIMED_IMAGES = 8
BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Accuracy:
    """What a graph lost against fp32 in points of mIoU, with its interval, and the SQNR of its logits on some images in dB."""

    drop: Interval
    sqnr_each: list[float]

    @property
    def sqnr(self) -> float | None:
        """Mean over the images; None for fp32 itself and for graphs that show no logits."""
        return float(np.mean(self.sqnr_each)) if self.sqnr_each else None


class Attempts:
    """Builds, scores and times graphs of a calibrated bundle that differ in the precision of their blocks.

    Args:
        bundle: with an fp32 graph, a calibration table of it, and the labelled data it is validated on.
        work: folder of the graphs (while they are needed) and of everything that was measured.
        backend: where they run. executor: of the scoring.
        limit: only the first images. runs, threads: of the timing.

    Raises:
        UserError: no table, no data, fewer than two labelled images, or nothing in the graph that may become int8.
    """

    def __init__(
        self, bundle: Path, work: Path, backend: str, executor: Executor, *, limit: int | None, runs: int, threads: int | None
    ) -> None:
        self.manifest = read_manifest(bundle)
        self.fp32 = graph_path(bundle, self.manifest, "fp32")
        self.table = bundle_table(bundle, None, self.manifest)
        self.model = rescaled(load_graph(self.fp32), self.table.rescaled)
        blocks = blocks_of(self.model)
        self._every_block = list(blocks)
        self.blocks = int8_blocks(self.model, blocks)
        if not self.blocks:
            raise UserError(f"nothing in {self.fp32} may become int8: it has no convolution or matrix product before its logits.")
        self.work = work
        self.backend = backend
        self.executor = executor
        root, layout, split = data_of(str(bundle), None)
        self.plan = Plan(str(root), layout, split, limit, backend)
        self.trials = Trials(work / "trials", self.plan, self.fp32, executor)
        self.runs, self.threads = runs, threads

    @property
    def dataset_name(self) -> str:
        """The labelled images in words."""
        dataset = self.plan.dataset
        return f"{len(self.images)} images of {dataset.spec.name} {dataset.split}"

    @property
    def conditions(self) -> dict[str, Any]:
        """What another person needs to measure the same again."""
        threads = self.threads or "backend default"
        return {"backend": self.backend, "threads": threads, "split": self.plan.split, "fp32_sha256": self.manifest.graphs["fp32"].sha256}

    @cached_property
    def images(self) -> list[Path]:
        """The labelled images."""
        return self.plan.dataset.image_paths[: self.plan.limit]

    def all_in(self, precision: str) -> dict[str, str]:
        """Every block in one precision, also those without an int8 form."""
        return dict.fromkeys(self._every_block, precision)

    def graph(self, precisions: Precisions) -> Path:
        """The deploy graph of some precisions, built when it is asked for first."""
        if all(precisions.get(block) == "fp32" for block in self.blocks):
            return self.fp32
        path = self.work / "graphs" / f"{sha256_json(dict(precisions))[:32]}.onnx"
        if not path.exists():
            with atomic_path(path) as temporary:
                onnx.save(self._mixed(precisions), temporary)
        return path

    def _mixed(self, precisions: Precisions) -> onnx.ModelProto:
        graph = self.model
        placement = place(self.model, float_nodes(self.model, precisions))
        if any(precisions.get(block, DEFAULT) in INT8 for block in self.blocks):
            graph = quantize_graph(self.model, self.table.ranges, placement)
        return lower_blocks(self.model, graph, precisions, lambda: self._magnitudes)

    def accuracy(self, attempts: Sequence[Precisions], what: str) -> list[Accuracy]:
        """What each attempt lost; ``what`` is told as progress."""
        reference, *found = self.trials.run([self.fp32, *map(self.graph, attempts)], what)
        return [_accuracy(reference, trial) for trial in found]

    def timing(self, attempts: Sequence[Precisions]) -> list[Timing]:
        """Milliseconds of each attempt; its references are fp32 and int8. Whatever scores is ended before."""
        self.executor.close()
        references = [self.fp32, self.graph({})]
        images = pick(self.images, TIMED_IMAGES)
        watch = Stopwatch(self.work / "trials", self.backend, references, images, self.runs, self.threads)
        return watch.measure([self.graph(precisions) for precisions in attempts])

    @cached_property
    def _magnitudes(self) -> dict[str, float]:
        """On the images of ``quantize_bundle``, whatever the limit: what is scored is what it will write."""
        images = verification_images(None, self.manifest.provenance.get("data"))
        return largest_magnitudes(self.model, self.manifest.contract, images)


@contextmanager
def without_leftovers(work: Path, executor: Executor) -> Iterator[None]:
    """Remove the graphs, also those of a killed run, and end what the executor started; nobody else works in the folder meanwhile.

    Raises:
        UserError: somebody does.
    """
    with _alone(work):
        shutil.rmtree(work / "graphs", ignore_errors=True)
        try:
            yield
        finally:
            executor.close()
            shutil.rmtree(work / "graphs", ignore_errors=True)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder's lock; a killed process lets go of it."""
    with explain_write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        stream = (work / LOCK).open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another segc works in {work}: it would disturb the timings.", "Wait for it, or give another --work-dir."
            ) from None
        yield


def _accuracy(reference: Trial, trial: Trial) -> Accuracy:
    drops = paired_drops(reference.confusions.counts(), trial.confusions.counts(), BOOTSTRAP)
    if drops is None or "mIoU" not in drops.means:
        raise UserError("no labelled pixel was scored: every label is ignored.", "Look at the labels: segc data check ROOT")
    return Accuracy(drops.means["mIoU"], trial.sqnr)
