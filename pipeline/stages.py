"""The stages of a recipe: which room does the work, what it reads (its key), what it leaves (its outputs)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from segc.calib.select import Images, images_in
from segc.core.errors import UserError
from segc.core.files import read_json, sha256_json
from segc.core.rows import cpu_name, package_version, value_of
from segc.data.dataset import SegmentationSet, open_dataset
from segc.data.embedded import embedded_dataset
from segc.models.config import encode_config, load_config
from segc.pipeline.engine import Hashes, Stage
from segc.pipeline.gate import Candidate, choose
from segc.pipeline.recipe import Recipe
from segc.runtime.bundle import Manifest, graph_file, graph_path, is_bundle, read_manifest, result_file, write_manifest
from segc.runtime.runner import installed_backends
from segc.runtime.target import Target

_MEASURING = "onnxruntime openvino numpy opencv-python-headless".split()


class Run:
    """The stages of one recipe in one work folder."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.recipe = recipe
        self.work = work
        self.bundle = work / "bundle"
        self.hashes = Hashes(work / "hashes.json")

    @property
    def stages(self) -> list[Stage]:
        """The stages in order; a recipe with ``train.weights`` has no training, one without int8 no calibration."""
        own = [
            Stage("export", self._export, self._export_inputs, lambda: self._graph("fp32")),
            Stage("calibrate", self._calibrate, self._calibrate_inputs, lambda: self._hash(self.bundle / "calibration.json")),
            Stage("quantize", self._quantize, self._quantize_inputs, lambda: self._graph("int8")),
            Stage("validate", self._validate, self._validate_inputs, lambda: self._results("validation")),
            Stage("benchmark", self._benchmark, self._benchmark_inputs, lambda: self._results("benchmark")),
            Stage("choose", self._choose, self._choose_inputs, self._chosen),
            Stage("report", self._report, self._report_inputs, lambda: self._hash(*self._report_files())),
        ]
        if not self.recipe.quantize.enabled:
            own = [stage for stage in own if stage.name not in ("calibrate", "quantize")]
        train = Stage("train", self._train, self._train_inputs, lambda: self._hash(self.weights))
        return own if self.recipe.train.weights else [train, *own]

    # --- what is read and written

    @property
    def weights(self) -> Path:
        """The checkpoint that is exported."""
        return self.recipe.train.weights or self.work / "train" / "best.safetensors"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Graphs of the bundle."""
        return ("fp32", "int8") if self.recipe.quantize.enabled else ("fp32",)

    @cached_property
    def backends(self) -> list[str]:
        """Backends to measure.

        Raises:
            UserError: one that the recipe names is not installed.
        """
        installed = installed_backends()
        wanted = self.recipe.benchmark.backends or installed
        for name in wanted:
            if name not in installed:
                raise UserError(f"benchmark.backends names {name!r}; installed here: {', '.join(installed)}.", "segc doctor")
        return wanted

    @cached_property
    def validation_set(self) -> SegmentationSet:
        """The images that the gate is measured on."""
        return self._dataset(self.recipe.data.split)

    @cached_property
    def root(self) -> Path:
        """Folder of the dataset."""
        return self.recipe.data.root or embedded_dataset()

    def _dataset(self, split: str) -> SegmentationSet:
        return open_dataset(self.root, self.recipe.data.layout, split)

    @cached_property
    def calibration_images(self) -> Images:
        """The images to choose from for calibration."""
        folder = self.recipe.calibrate.images
        return self._dataset("train") if folder is None else images_in(folder)

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """Overrides of the config: the recipe's, and its dataset where it names one."""
        found: dict[str, Any] = {}
        if self.recipe.data.root is not None:
            for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
                found[f"{loader}.dataset.{self._root_key(loader)}"] = str(self.recipe.data.root)
        return {**found, **self.recipe.train.overrides}

    def _root_key(self, loader: str) -> str:
        return "root" if load_config(self.recipe.config)[loader].dataset.type == "SegcDataset" else "data_root"

    def _config(self) -> Any:
        """The config with everything it inherits and its overrides, as a JSON value."""
        return encode_config(load_config(self.recipe.config, self.overrides))

    def _hash(self, *paths: Path) -> dict[str, Any]:
        return {
            path.relative_to(self.work).as_posix() if path.is_relative_to(self.work) else path.name: self.hashes.file(path)
            for path in paths
        }

    def _dataset_hash(self, split: str) -> str:
        return self.hashes.files(path for pair in self._dataset(split) for path in (pair.image, pair.label))

    def _manifest(self) -> Manifest | None:
        return read_manifest(self.bundle) if is_bundle(self.bundle) else None

    def _graph(self, precision: str) -> dict[str, Any]:
        """Hash of a graph file beside the one the manifest tells."""
        manifest = self._manifest()
        told = manifest.graphs.get(precision) if manifest else None
        return {**self._hash(self.bundle / graph_file(precision)), "manifest": told.sha256 if told else None}

    def _graphs(self) -> dict[str, Any]:
        return {precision: self._graph(precision) for precision in self.precisions}

    def _each(self) -> list[tuple[str, str]]:
        return [(precision, backend) for precision in self.precisions for backend in self.backends]

    def _results(self, kind: str) -> dict[str, Any]:
        return self._hash(*(result_file(self.bundle, kind, *pair) for pair in self._each()))

    # --- train

    def _train_inputs(self) -> Any:
        data = [self._dataset_hash("train"), self._dataset_hash("val")]
        return [self._config(), self.recipe.train.seed, data, package_version("torch")]

    def _train(self, resume: bool) -> None:
        from segc.train.trainer import train

        train(self.recipe.config, self.overrides, self.weights.parent, resume=resume, seed=self.recipe.train.seed)

    # --- export

    def _export_inputs(self) -> Any:
        if self.recipe.train.weights and not self.weights.is_file():
            raise UserError(f"train.weights {self.weights} does not exist.")
        options = self.recipe.export.model_dump(mode="json")
        return [self.recipe.name, self._config(), options, self._hash(self.weights), self._dataset_hash(self.recipe.data.split)]

    def _export(self, resume: bool) -> None:
        from segc.export.exporter import export_network

        options = self.recipe.export
        manifest = export_network(
            self.recipe.config,
            self.weights,
            self.bundle,
            input_size=options.input_size,
            batch=options.batch,
            output=options.output,
            opset=options.opset,
            images=self.validation_set.image_paths,
            overrides=self.overrides,
            name=self.recipe.name,
        )
        data = {"root": str(self.root.resolve()), "layout": self.validation_set.layout, "split": self.recipe.data.split}
        write_manifest(self.bundle, manifest.model_copy(update={"provenance": {**manifest.provenance, "data": data}}))

    # --- calibrate, quantize

    def _calibrate_inputs(self) -> Any:
        options = self.recipe.calibrate.model_dump(mode="json", exclude={"images"})
        images = self.calibration_images
        content = self._dataset_hash("train") if isinstance(images, SegmentationSet) else self.hashes.files(images)
        return [options, self._graph("fp32"), content]

    def _calibrate(self, resume: bool) -> None:
        from segc.calib.calibrate import calibrate

        options = self.recipe.calibrate.model_dump(exclude={"images"})
        calibrate(self.bundle, self.calibration_images, **options)

    def _quantize_inputs(self) -> Any:
        table = self._hash(self.bundle / "calibration.json")
        return [self.recipe.quantize.model_dump(mode="json"), self._graph("fp32"), table, self._dataset_hash(self.recipe.data.split)]

    def _quantize(self, resume: bool) -> None:
        from segc.compress.quantize import quantize_bundle

        options = self.recipe.quantize.model_dump(exclude={"enabled"})
        folder = self.recipe.calibrate.images
        quantize_bundle(self.bundle, images=self.validation_set.image_paths, calibration_images=folder, **options)

    # --- validate, benchmark

    def _validate_inputs(self) -> Any:
        limit = self.recipe.validation.limit
        return [limit, self.backends, self._graphs(), self._hash(self.weights), self._dataset_hash(self.recipe.data.split), _versions()]

    def _validate(self, resume: bool) -> None:
        from segc.validate.evaluate import validate

        for precision, backend in self._each():
            against = str(self.weights) if precision == "fp32" else f"{self.bundle}@fp32"
            target, limit = f"{self.bundle}@{precision}", self.recipe.validation.limit
            validate(target, self.validation_set, against=against, backend=backend, limit=limit, maps=self.work / "maps")

    def _benchmark_inputs(self) -> Any:
        return [self.recipe.benchmark.model_dump(mode="json"), self.backends, self._graphs(), cpu_name(), _versions()]

    def _benchmark(self, resume: bool) -> None:
        from segc.runtime.benchmark import benchmark_many

        options = self.recipe.benchmark
        targets: list[tuple[str | Target, str | None]] = [(Target(self.bundle, "bundle", each), backend) for each, backend in self._each()]
        images = self.validation_set.image_paths
        benchmark_many(targets, threads=options.threads, warmup=options.warmup, runs=options.runs, images=images)

    # --- choose, report

    def candidates(self) -> list[Candidate]:
        """Every graph on every backend, as measured."""
        return [self._candidate(precision, backend) for precision, backend in self._each()]

    def _candidate(self, precision: str, backend: str) -> Candidate:
        manifest = read_manifest(self.bundle)
        validation = read_json(result_file(self.bundle, "validation", precision, backend))
        timing = read_json(result_file(self.bundle, "benchmark", precision, backend))
        size = graph_path(self.bundle, manifest, precision).stat().st_size
        return Candidate(precision, backend, value_of(validation, "mIoU"), value_of(timing, "engine_p50"), size)

    def guesses(self) -> dict[str, float]:
        """mIoU in percent of two predictors that look at no image."""
        result = read_json(result_file(self.bundle, "validation", *self._each()[0]))
        return {"one_class": value_of(result, "all-one-class mIoU"), "random": value_of(result, "random mIoU")}

    def _choose_inputs(self) -> Any:
        return [self.recipe.resolved(), self._graphs(), self._results("validation"), self._results("benchmark")]

    def _chosen(self) -> dict[str, Any]:
        manifest = self._manifest()
        return {"choice": sha256_json([manifest.preferred, manifest.recipe]) if manifest else None}

    def _choose(self, resume: bool) -> None:
        found = self.candidates()
        reference = next(each for each in found if each.precision == "fp32")
        best = choose(found, reference.miou, self.recipe.validation.max_drop)
        update = {"preferred": best.preferred if best else {}, "recipe": self.recipe.resolved()}
        write_manifest(self.bundle, read_manifest(self.bundle).model_copy(update=update))

    def _report_inputs(self) -> Any:
        return [self._graphs(), self._results("validation"), self._results("benchmark"), self._chosen()]

    def _report_files(self) -> list[Path]:
        return [self.bundle / "report" / f"report.{kind}" for kind in ("html", "md", "json")]

    def _report(self, resume: bool) -> None:
        from segc.validate.report import write_report

        write_report(self.bundle)


def _versions() -> dict[str, str | None]:
    return {name: package_version(name) for name in _MEASURING}
