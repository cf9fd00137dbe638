"""The real wiring with the rooms replaced by small writers: each change redoes exactly what depends on it; the verdict is told."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import sha256_file, write_json, write_text
from segc.data.dataset import SegmentationSet
from segc.pipeline import stages
from segc.pipeline.run import run_recipe
from segc.runtime.bundle import Graph, Manifest, graph_file, read_manifest, write_manifest

CONTRACT = Contract(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)], height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CONFIG = "model = dict(type='EncoderDecoder')\n" + "".join(
    f"{name}_dataloader = dict(dataset=dict(type='SegcDataset', root=None))\n" for name in ("train", "val", "test")
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of random images, a config, a recipe."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
            for index in range(3):
                shape, top = ((8, 8, 3), 256) if kind == "images" else ((8, 8), 2)
                cv2.imwrite(str(tmp_path / "data" / kind / split / f"{index}.png"), rng.integers(0, top, shape, np.uint8))
    write_json(tmp_path / "data" / "dataset.json", {"classes": ["a", "b"]})
    write_text(tmp_path / "config.py", CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Rooms:
    """Stand-ins of the rooms: each notes that it ran and writes what the real one writes, from what the real one reads."""

    miou = {"fp32": 80.0, "int8": 79.5}  # noqa: RUF012

    def __init__(self) -> None:
        self.ran: list[str] = []

    def train(self, config: str, overrides: Any, work: Path, *, resume: bool, seed: int) -> None:
        self.ran.append("train")
        write_text(work / "best.safetensors", json.dumps(overrides))

    def export(self, config: str, weights: Path, bundle: Path, **options: Any) -> Manifest:
        self.ran.append("export")
        manifest = Manifest(name=options["name"], contract=CONTRACT, graphs={})
        return self._add(bundle, manifest, "fp32", Path(weights).read_text() + str(options["opset"]))

    def calibrate(self, bundle: Path, images: SegmentationSet, **options: Any) -> None:
        self.ran.append("calibrate")
        assert images.split == "train"
        write_json(bundle / "calibration.json", [options, (bundle / "model.onnx").read_text()])

    def quantize(self, bundle: Path, **options: Any) -> Manifest:
        self.ran.append("quantize")
        assert {path.parent.name for path in options.pop("images")} == {"val"}
        return self._add(bundle, read_manifest(bundle), "int8", (bundle / "calibration.json").read_text() + str(options))

    def _add(self, bundle: Path, manifest: Manifest, precision: str, content: str) -> Manifest:
        path = bundle / graph_file(precision)
        write_text(path, content)
        manifest.graphs[precision] = Graph(file=path.name, sha256=sha256_file(path), opset=20)
        write_manifest(bundle, manifest)
        return manifest

    def validate(self, target: str, dataset: Any, *, against: str, backend: str, limit: int | None, maps: Path) -> None:
        bundle, _, precision = target.rpartition("@")
        self.ran.append(f"validate {precision} {backend}")
        assert against.endswith("best.safetensors" if precision == "fp32" else "@fp32")
        values = {"mIoU": self.miou[precision], "all-one-class mIoU": 3.0, "random mIoU": 4.0}
        rows = [{"metric": metric, "value": value} for metric, value in values.items()]
        graph = (Path(bundle) / graph_file(precision)).read_text()
        write_json(Path(bundle) / "results" / f"validation.{precision}.{backend}.json", {"rows": rows, "of": [graph, limit]})

    def benchmark(self, targets: Any, **options: Any) -> None:
        self.ran.append("benchmark")
        for target, backend in targets:
            rows = [{"metric": "engine_p50", "value": 10.0 if target.precision == "fp32" else 4.0}]
            write_json(target.path / "results" / f"benchmark.{target.precision}.{backend}.json", {"rows": rows, "options": str(options)})

    def report(self, bundle: Path) -> None:
        self.ran.append("report")
        for kind in ("html", "md", "json"):
            content = [path.read_text() for path in sorted(bundle.glob("results/*"))]
            write_text(bundle / "report" / f"report.{kind}", hashlib.sha256(str(content).encode()).hexdigest())


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    found = Rooms()
    places = {
        "segc.train.trainer": {"train": found.train},
        "segc.export.exporter": {"export_network": found.export},
        "segc.calib.calibrate": {"calibrate": found.calibrate},
        "segc.compress.quantize": {"quantize_bundle": found.quantize},
        "segc.validate.evaluate": {"validate": found.validate},
        "segc.runtime.benchmark": {"benchmark_many": found.benchmark},
        "segc.validate.report": {"write_report": found.report},
    }
    for name, functions in places.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "installed_backends", lambda: ["onnxruntime", "openvino"])
    return found


def run(folder: Path, rooms: Rooms, extra: str = "", **options: Any) -> list[str]:
    write_text(folder / "r.yaml", f"name: mine\nconfig: config.py\ndata: {{root: data}}\n{extra}")
    rooms.ran.clear()
    rooms.result = run_recipe(folder / "r.yaml", **options)  # type: ignore[attr-defined]
    return rooms.ran


ALL = [
    "train",
    "export",
    "calibrate",
    "quantize",
    *(f"validate {precision} {backend}" for precision in ("fp32", "int8") for backend in ("onnxruntime", "openvino")),
    "benchmark",
    "report",
]


def test_all_stages_then_none(folder: Path, rooms: Rooms) -> None:
    assert run(folder, rooms) == ALL
    assert run(folder, rooms) == []
    manifest = read_manifest(folder / "work_dirs/mine/bundle")
    assert manifest.preferred == {"precision": "int8", "backend": "onnxruntime"}
    assert manifest.recipe is not None and manifest.recipe["validate"]["max_drop"] == 1.0
    assert manifest.provenance["data"]["layout"] and manifest.provenance["data"]["split"] == "val"


@pytest.mark.parametrize(
    ("extra", "again"),
    [
        ("benchmark: {runs: 9}\n", ["benchmark", "report"]),
        ("validate: {limit: 1}\n", [*ALL[4:8], "report"]),
        ("quantize: {chains: false}\n", ALL[3:]),
        ("calibrate: {count: 2}\n", ALL[2:]),
        ("export: {opset: 18}\n", ALL[1:]),
        ("train: {overrides: {model.type: X}}\n", ALL),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_changed_parameter_redoes_what_depends_on_it(folder: Path, rooms: Rooms, extra: str, again: list[str]) -> None:
    run(folder, rooms)
    assert run(folder, rooms, extra) == again


def test_a_changed_training_label_trains_again(folder: Path, rooms: Rooms) -> None:
    run(folder, rooms)
    cv2.imwrite(str(folder / "data" / "labels" / "train" / "0.png"), np.ones((8, 8), np.uint8))
    assert run(folder, rooms)[:2] == ["train", "calibrate"], "calibration images are chosen by their labels"


def test_an_altered_graph_is_made_again(folder: Path, rooms: Rooms) -> None:
    run(folder, rooms)
    (folder / "work_dirs/mine/bundle/model.int8.onnx").write_text("altered")
    assert run(folder, rooms)[0] == "quantize"


def test_given_weights_are_not_trained(folder: Path, rooms: Rooms) -> None:
    (folder / "best.safetensors").write_text("w")
    assert "train" not in run(folder, rooms, "train: {weights: best.safetensors}\n")
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        run(folder, rooms, "train: {weights: nowhere.pth}\n")


def test_gate(folder: Path, rooms: Rooms) -> None:
    rooms.miou = {"fp32": 80.0, "int8": 60.0}
    run(folder, rooms)
    result = rooms.result  # type: ignore[attr-defined]
    assert "int8 loses 20.00 points" in result.failures[0]
    assert result.preferred["precision"] == "fp32", "the fast one is not exact"


def test_unknown_backend_is_named_before_anything_is_measured(folder: Path, rooms: Rooms) -> None:
    with pytest.raises(UserError, match="names 'tensorrt'; installed here: onnxruntime, openvino"):
        run(folder, rooms, "benchmark: {backends: [tensorrt]}\n")


def test_stand_ins_have_the_parameters_of_the_real_rooms() -> None:
    """A room that renames a parameter breaks here, not in a run of ten minutes."""
    import importlib
    import inspect

    used = {
        ("segc.train.trainer", "train"): "resume seed",
        ("segc.export.exporter", "export_network"): "input_size batch output opset images overrides name",
        ("segc.calib.calibrate", "calibrate"): "count seed method",
        ("segc.compress.quantize", "quantize_bundle"): "images keep chains least_agreement",
        ("segc.validate.evaluate", "validate"): "against backend limit maps",
        ("segc.runtime.benchmark", "benchmark_many"): "threads warmup runs images",
        ("segc.validate.report", "write_report"): "",
    }
    for (module, name), keywords in used.items():
        found = importlib.import_module(module)
        assert isinstance(found, ModuleType)
        assert set(keywords.split()) <= set(inspect.signature(getattr(found, name)).parameters), f"{module}.{name}"
