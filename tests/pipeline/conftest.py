"""A calibrated bundle with labelled photographs (its own classes, some wrong), a small network to train, a clock that never waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from clocks import Clock
from scenes import small_training
from smallnet import photos, small_bundle, write_spec

from segc.calib.calibrate import calibrate
from segc.core.images import read_image, write_image
from segc.data.render import RenderOptions, render_dataset
from segc.models.network import Network, load_network, save_network
from segc.pipeline.stopwatch import Stopwatch
from segc.runtime.bundle import graph_path, read_manifest, write_manifest
from segc.runtime.runner import open_runner

QUICKSTART = "segc::quickstart/quickstart.py"


@pytest.fixture(scope="session")
def labelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    data = root / "data"
    (data / "images" / "val").mkdir(parents=True)
    images = photos(data / "images" / "val")
    bundle = small_bundle(root / "bundle")
    runner = open_runner(str(graph_path(bundle, read_manifest(bundle), "fp32")))
    random = np.random.default_rng(0)
    for path in images:
        found = runner.run(read_image(path)[None])[0]
        wrong = random.random(found.shape) < 0.2
        write_image(data / "labels" / "val" / path.name, np.where(wrong, random.integers(0, 3, found.shape), found).astype(np.uint8))
    write_spec(data)
    calibrate(bundle, images, count=3, threads=1)
    provenance = {"data": {"root": str(data), "layout": "folder", "split": "val"}}
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"provenance": provenance}))
    return bundle


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock], None]:
    def wind(ms: Clock) -> None:
        def measure(self: Stopwatch, graphs: Sequence[Path]) -> list[float]:
            return [ms(onnx.load(path)) for path in graphs]

        monkeypatch.setattr(Stopwatch, "_round", measure)

    return wind


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its config, whose data are six scenes."""
    folder = tmp_path_factory.mktemp("trained")
    root = render_dataset(folder / "street", RenderOptions(width=96, height=64, train=6, val=3))
    overrides = small_training(root, channels=16)
    save_network(load_network(QUICKSTART, None, overrides=overrides, random_weights=True), folder / "trained.safetensors")
    return folder / "trained.safetensors"


@pytest.fixture(scope="session")
def network(trained: Path) -> Network:
    return load_network(None, trained)
