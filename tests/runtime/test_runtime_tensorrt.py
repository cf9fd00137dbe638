"""The TensorRT backend on a GPU and a TensorRT that work in host memory (``fake_gpu``), and what is said where there is no GPU."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import ENGINE, FakeApi, FakeTensorRt
from hypothesis import given
from hypothesis import strategies as st
from toy import DYNAMIC, make_bundle

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.runtime.backends.tensorrt_backend import TensorRtRunner
from segc.runtime.bundle import Engine, Profile, engine_file, read_manifest, write_manifest
from segc.runtime.cuda import Cuda
from segc.runtime.engines import runnable
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter

STATIC = DYNAMIC.model_copy(update={"batch": 2, "height": 6, "width": 8})
SMALL, LARGE = (1, 4, 4), (3, 16, 12)


def add_engine(bundle: Path, profile: Profile, content: bytes = ENGINE, **changes: Any) -> Engine:
    """Put an engine of the fake flavour into a bundle; ``changes`` to its entry."""
    manifest = read_manifest(bundle)
    entry = Engine(
        file="",
        sha256="",
        precision="fp32",
        graph_sha256=manifest.graphs["fp32"].sha256,
        flavour="10",
        version="10.3.0.26",
        compute_capability="8.6",
        machine=f"{platform.machine()} {platform.system()}",
        profile=profile,
        command="trtexec",
    ).model_copy(update=changes)
    path = bundle / engine_file(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    entry = entry.model_copy(update={"file": engine_file(entry), "sha256": sha256_file(path)})
    write_manifest(bundle, manifest.model_copy(update={"engines": [*manifest.engines, entry]}))
    return entry


def bundle_with_engine(folder: Path, contract: Contract = STATIC, content: bytes = ENGINE, **changes: Any) -> Path:
    bundle = make_bundle(folder, contract)
    shape = (contract.batch, contract.height, contract.width)
    profile = Profile(min=SMALL, opt=SMALL, max=LARGE) if None in shape else Profile(min=shape, opt=shape, max=shape)  # type: ignore[arg-type]
    add_engine(bundle, profile, content, **changes)
    return bundle


def open_fake(bundle: Path, api: FakeApi, version: str = "10.3.0.26", **options: Any) -> TensorRtRunner:
    library = options.pop("library", None) or FakeTensorRt(api, version)
    return TensorRtRunner(bundle, read_manifest(bundle), "fp32", cuda=Cuda(api), library=library, **options)


def batches(count: int, shape: tuple[int, int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(index).integers(0, 256, (*shape, 3), np.uint8) for index in range(count)]


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_engine(tmp_path_factory.mktemp("static") / "bundle")


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_engine(tmp_path_factory.mktemp("dynamic") / "bundle", DYNAMIC)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_run_gives_the_class_map_and_allocates_once(static: Path, late: bool, graphs: bool) -> None:
    api = FakeApi(late=late)
    runner = open_fake(static, api, graphs=graphs)
    for images in batches(5, (2, 6, 8)):
        found = runner.run(images)
        assert found.dtype == np.uint8 and np.array_equal(found, images[..., 0] > 127)
    assert (api.calls["cudaMalloc"], api.calls["cudaHostAlloc"]) == (2, 2)
    assert api.calls["cudaGraphLaunch"] == (4 if graphs else 0)
    assert sum(array.nbytes for array in api.device.values()) == 2 * 6 * 8 * (3 + 1), "only bytes: uint8 in, class map out"
    runner.close()
    assert api.held == 0


@given(late=st.booleans(), lanes=st.integers(1, 4), count=st.integers(0, 7), taken=st.integers(0, 7))
def test_run_all_keeps_the_order_however_it_is_used(static: Path, late: bool, lanes: int, count: int, taken: int) -> None:
    """Every number of lanes, and a caller that stops early and one that uses one array for all its images."""
    api = FakeApi(late=late)
    runner = open_fake(static, api, lanes=lanes)
    shared = np.empty((2, 6, 8, 3), np.uint8)

    def refill() -> Any:
        for images in batches(count, (2, 6, 8)):
            shared[:] = images
            yield shared

    results = runner.run_all(refill())
    found = [result for result, _ in zip(results, range(taken), strict=False)]
    results.close()  # type: ignore[attr-defined]
    for result, images in zip(found, batches(count, (2, 6, 8)), strict=False):
        assert np.array_equal(result, images[..., 0] > 127)
    last = batches(9, (2, 6, 8))[8]
    assert len(found) == min(count, taken) and np.array_equal(runner.run(last), last[..., 0] > 127)
    runner.close()
    assert api.held == 0


def test_run_all_starts_the_next_before_it_waits(static: Path) -> None:
    api = FakeApi()
    runner = open_fake(static, api, lanes=2)
    for _ in range(2):
        list(runner.run_all(batches(6, (2, 6, 8))))
        steps, api.order = api.order, []
    (first, second) = dict.fromkeys(stream for _, stream in steps)
    assert steps[:5] == [("launch", first), ("launch", second), ("synchronize", first), ("launch", first), ("synchronize", second)]


@given(shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(4, 16), st.integers(4, 12)), min_size=1, max_size=6), late=st.booleans())
def test_any_shapes_of_the_profile_in_any_order(dynamic: Path, shapes: list[tuple[int, int, int]], late: bool) -> None:
    api = FakeApi(late=late)
    runner = open_fake(dynamic, api)
    for shape in [*shapes, *shapes[::-1]]:
        images = batches(1, shape)[0]
        assert np.array_equal(runner.run(images), images[..., 0] > 127)
    assert api.calls["cudaMalloc"] == 2 and len(api.graphs) == 1
    runner.close()
    assert api.held == 0


def test_shapes_outside_the_profile_are_named(dynamic: Path) -> None:
    runner = open_fake(dynamic, FakeApi())
    with pytest.raises(UserError, match=r"\(1, 20, 12\) are outside the engine's profile \(1, 4, 4\) to \(3, 16, 12\)"):
        runner.run(batches(1, (1, 20, 12))[0])


def test_an_engine_that_cannot_be_captured_still_runs(static: Path) -> None:
    api = FakeApi()
    api.capturable = False
    runner = open_fake(static, api)
    for images in batches(4, (2, 6, 8)):
        assert np.array_equal(runner.run(images), images[..., 0] > 127)
    assert not runner.captured and api.calls["cudaStreamBeginCapture"] == 1


def test_several_images_go_through_the_lanes_together(static: Path) -> None:
    api = FakeApi()
    images = [image for batch in batches(3, (2, 6, 8)) for image in batch][:5]
    found = Segmenter(open_fake(static, api)).class_maps(images)
    assert len(found) == 5 and all(np.array_equal(one, image[..., 0] > 127) for one, image in zip(found, images, strict=True))
    assert len(api.streams) == 2


def test_many_classes_come_as_int32(tmp_path: Path) -> None:
    colours = [(index % 256, 0, 0) for index in range(300)]
    contract = STATIC.model_copy(update={"classes": [str(index) for index in range(300)], "palette": colours})
    api = FakeApi()
    library = FakeTensorRt(api)
    bundle = bundle_with_engine(tmp_path / "bundle", contract)
    with pytest.raises(UserError, match=r"gives uint8; bundle.json says uint8 and int32"):
        open_fake(bundle, api, library=library)
    library.output_dtype = np.dtype(np.int32)
    images = batches(1, (2, 6, 8))[0]
    found = open_fake(bundle, api, library=library).run(images)
    assert found.dtype == np.int32 and np.array_equal(found, images[..., 0] > 127)


def test_layers_are_profiled_apart(static: Path) -> None:
    api = FakeApi()
    runner = open_fake(static, api)
    images = batches(1, (2, 6, 8))[0]
    before = api.held
    assert runner.profile_layers(images, runs=3) == [("conv", 2.0), ("argmax", 0.5)]
    assert api.held == before and np.array_equal(runner.run(images), images[..., 0] > 127)


CALLS = [
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaStreamCreateWithFlags",
    "cudaMemcpyAsync",
    "cudaStreamSynchronize",
    "cudaStreamBeginCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaGetDeviceProperties",
    "cudaDriverGetVersion",
]


@pytest.mark.parametrize("call", CALLS)
def test_every_error_of_cuda_names_its_call(static: Path, call: str) -> None:
    api = FakeApi()
    api.broken[call] = 700
    with pytest.raises(UserError, match=rf"^{call} failed: error 700 happened \(CUDA error 700\)\."):
        runner = open_fake(static, api)
        for images in batches(2, (2, 6, 8)):
            runner.run(images)


@pytest.mark.parametrize("memory", [0, 300, 2 * 6 * 8 * 3 + 10])
def test_too_little_gpu_memory_is_said_and_nothing_is_kept(static: Path, memory: int) -> None:
    api = FakeApi(memory=memory)
    with pytest.raises(UserError, match=r"GPU memory is used up: a buffer of the engine needs .* MiB are free"):
        open_fake(static, api)
    assert api.held == 0


def test_too_little_memory_for_a_context(static: Path) -> None:
    library = FakeTensorRt(FakeApi())
    library.context_fails = True
    with pytest.raises(UserError, match=r"execution context: 1024 of 1024 MiB"):
        open_fake(static, library.api, library=library)


def test_an_engine_that_does_not_start(static: Path) -> None:
    library = FakeTensorRt(FakeApi())
    runner = open_fake(static, library.api, library=library)
    library.enqueue_fails = True
    with pytest.raises(UserError, match="cannot start the engine: it gives no reason"):
        runner.run(batches(1, (2, 6, 8))[0])


def test_a_damaged_engine_is_told_with_tensorrts_first_error(tmp_path: Path) -> None:
    bundle = bundle_with_engine(tmp_path / "bundle", content=b"half an engi")
    with pytest.raises(UserError, match=r"cannot load .*engine: Serialization assertion magicTag failed\. Build it again: segc export"):
        open_fake(bundle, FakeApi())
    next(bundle.rglob("*.engine")).write_bytes(b"other")
    with pytest.raises(UserError, match="altered"):
        open_fake(bundle, FakeApi())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compute_capability": "8.7"}, r"compute capability 8\.7, here 8\.6 \(Fake GPU\)\. Build one here: segc export .* --engine fp32"),
        ({"version": "10.7.0.1"}, r"version 10\.7\.0\.1, here 10\.3\.0\.26"),
        ({"flavour": "11", "version": "11.4.1"}, r"flavour TensorRT 11, here TensorRT 10; version 11\.4\.1"),
        ({"machine": "aarch64 Linux"}, "machine aarch64 Linux, here"),
        ({"flavour": "rtx"}, r"no 'fp32' engine for tensorrt; it has fp32 \(TensorRT-RTX\)"),
        ({"precision": "fp16"}, r"no 'fp32' engine for tensorrt; it has fp16 \(TensorRT 10\)"),
        ({"graph_sha256": "0" * 64}, "was built from another 'fp32' graph"),
        ({"weights_stripped": True}, "has no weights"),
        ({"plugins": {"libsegc.so": "0"}}, r"needs the plugin library libsegc\.so"),
        ({"version_compatible": True, "version": "10.7.0"}, r"version 10\.7\.0, here 10\.3"),
        ({"hardware_compatible": True, "compute_capability": "8.9"}, r"compute capability 8\.9"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_fake(bundle_with_engine(tmp_path / "bundle", **changes), FakeApi())


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"version_compatible": True, "version": "10.1.0"}, "10.3.0.26"),
        ({"version_compatible": True}, "11.4.1"),
        ({"hardware_compatible": True, "compute_capability": "8.0"}, "10.3.0.26"),
        ({"plugins": {"libsegc.so": "0"}, "plugins_embedded": True}, "10.3.0.26"),
    ],
)
def test_compatible_engines_run(tmp_path: Path, changes: dict[str, Any], version: str) -> None:
    runner = open_fake(bundle_with_engine(tmp_path / "bundle", **changes), FakeApi(), version)
    images = batches(1, (2, 6, 8))[0]
    assert np.array_equal(runner.run(images), images[..., 0] > 127)


def test_the_engine_that_fits_is_chosen(tmp_path: Path) -> None:
    bundle = bundle_with_engine(tmp_path / "bundle", compute_capability="8.7")
    shape = (2, 6, 8)
    fitting = add_engine(bundle, Profile(min=shape, opt=shape, max=shape))
    add_engine(bundle, Profile(min=shape, opt=shape, max=shape), compute_capability="12.0")
    assert open_fake(bundle, FakeApi()).entry == fitting


@pytest.mark.parametrize(
    ("driver", "words"),
    [(0, r"no NVIDIA driver.*--gpus all"), (12040, r"too old: it knows CUDA 12\.4, .* need 13\.0\. Update the driver, or: .*==12\.\*'")],
)
def test_drivers_that_do_not_do(driver: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Cuda(FakeApi(driver=driver))


def test_a_driver_without_a_gpu() -> None:
    api = FakeApi()
    api.broken["cudaGetDeviceCount"] = 100
    with pytest.raises(UserError, match="shows no GPU"):
        Cuda(api)


def has_gpu() -> bool:
    try:
        Cuda()
    except UserError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU: tests/gpu/test_gpu_tensorrt.py runs an engine on it")
def test_without_a_gpu_it_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from typer.testing import CliRunner

    from segc.cli.main import app

    bundle = bundle_with_engine(tmp_path / "bundle", flavour="rtx", version="1.7.1.116")
    words = ["predict", str(tmp_path / "a.png"), "-m", str(bundle), "-o", str(tmp_path), "--backend", "tensorrt_rtx"]
    (tmp_path / "a.png").write_bytes(b"")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.stderr.startswith("error: there is no NVIDIA driver") and len(done.stderr.splitlines()) == 1
    assert runnable(read_manifest(bundle), "tensorrt_rtx") == []
    with pytest.raises(UserError, match="is for engines, not for a graph"):
        open_runner(str(bundle / "model.onnx"), "tensorrt_rtx")
