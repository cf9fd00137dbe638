"""The TensorRT backend on a real GPU: an engine built there by whichever flavour is installed, against the known class map."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import DYNAMIC, make_bundle

from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.runtime.backends.tensorrt_backend import TensorRtRunner
from segc.runtime.bundle import Engine, Profile, engine_file, read_manifest, write_manifest
from segc.runtime.cuda import Cuda
from segc.runtime.engines import library_version
from segc.runtime.runner import BACKENDS
from segc.runtime.segmenter import Segmenter

SHAPE = (2, 512, 1024)


def gpu_missing() -> str:
    try:
        Cuda()
    except UserError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(gpu_missing()), reason=gpu_missing())


def build(model: Path, library: Any) -> bytes:
    """A strongly typed engine of a static graph for this GPU."""
    builder = library.Builder(library.Logger(library.Logger.ERROR))
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, builder.logger)
    assert parser.parse_from_file(str(model)), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    backend: str = request.param
    if not BACKENDS[backend].installed:
        pytest.skip(f"{backend} is not installed")
    contract = DYNAMIC.model_copy(update={"batch": SHAPE[0], "height": SHAPE[1], "width": SHAPE[2]})
    bundle = make_bundle(tmp_path_factory.mktemp(backend) / "bundle", contract)
    version, manifest = library_version(backend), read_manifest(bundle)
    entry = Engine(
        file="",
        sha256="",
        precision="fp32",
        graph_sha256=manifest.graphs["fp32"].sha256,
        flavour="rtx" if backend == "tensorrt_rtx" else version.partition(".")[0],  # type: ignore[arg-type]
        version=version,
        compute_capability=Cuda().gpu.compute_capability,
        machine=f"{platform.machine()} {platform.system()}",
        profile=Profile(min=SHAPE, opt=SHAPE, max=SHAPE),
        command="",
    )
    path = bundle / engine_file(entry)
    path.parent.mkdir(parents=True)
    path.write_bytes(build(bundle / "model.onnx", importlib.import_module(BACKENDS[backend].package)))
    entry = entry.model_copy(update={"file": engine_file(entry), "sha256": sha256_file(path)})
    write_manifest(bundle, manifest.model_copy(update={"engines": [entry]}))
    opened = TensorRtRunner(bundle, read_manifest(bundle), "fp32", backend=backend)
    yield opened
    opened.close()


def batches(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(index).integers(0, 256, (*SHAPE, 3), np.uint8) for index in range(count)]


def test_run(runner: TensorRtRunner) -> None:
    for images in batches(4):
        assert np.array_equal(runner.run(images), images[..., 0] > 127)
    assert runner.captured, "one CUDA graph an image"


def test_run_all(runner: TensorRtRunner) -> None:
    made = batches(9)
    for found, images in zip(runner.run_all(iter(made)), made, strict=True):
        assert np.array_equal(found, images[..., 0] > 127)


def test_segmenter(runner: TensorRtRunner) -> None:
    images = [image for batch in batches(3) for image in batch][:5]
    for found, image in zip(Segmenter(runner).class_maps(images), images, strict=True):
        assert np.array_equal(found, image[..., 0] > 127)


def test_layers_take_time(runner: TensorRtRunner) -> None:
    layers = runner.profile_layers(batches(1)[0], runs=3)
    assert layers and sum(ms for _, ms in layers) > 0


def test_gpu_memory_is_given_back(runner: TensorRtRunner) -> None:
    list(runner.run_all(batches(4)))
    before = runner.cuda.memory()[0]
    for _ in range(5):
        runner.profile_layers(batches(1)[0], runs=1)
    assert before - runner.cuda.memory()[0] < 8 * 2**20


def test_too_much_memory_is_said(runner: TensorRtRunner) -> None:
    with pytest.raises(UserError, match="GPU memory is used up: the test"):
        runner.cuda.allocate(runner.cuda.memory()[1] * 2, "the test")
    images = batches(1)[0]
    assert np.array_equal(runner.run(images), images[..., 0] > 127)
