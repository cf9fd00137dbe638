"""Sources, predictions, benchmarks and bad inputs, on a small ONNX graph whose class map is known: brighter pixels are class 1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from toy import DYNAMIC, make_bundle, save_graph

from segc.core.contract import Inference
from segc.core.errors import UserError
from segc.core.rows import value_of
from segc.runtime.benchmark import STAGES, all_targets, benchmark, benchmark_many, pick_preferred, write_preferred
from segc.runtime.bundle import read_manifest, write_manifest
from segc.runtime.images import read_image, write_image
from segc.runtime.overlay import class_areas, draw_overlay
from segc.runtime.predict import parse_saves, predict
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter, resize_logits
from segc.runtime.sources import open_source


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from skimage import data

    folder = tmp_path / "photos"
    for name in ("chelsea", "coffee"):
        write_image(folder / f"{name}.png", getattr(data, name)()[:150, :200])
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_give_the_known_class_map(bundle: Path, photos: Path, backend: str) -> None:
    image = read_image(photos / "coffee.png")
    found = Segmenter(open_runner(str(bundle), backend, 1)).class_map(image)
    assert np.array_equal(found, image[..., 0] > 127)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_images_of_another_size_are_named(tmp_path: Path, backend: str) -> None:
    runner = open_runner(str(save_graph(tmp_path / "g.onnx", DYNAMIC.model_copy(update={"batch": 1, "height": 8, "width": 6}))), backend)
    with pytest.raises(UserError, match=r"\(1, 8, 6, 3\)"):
        runner.run(np.zeros((1, 8, 7, 3), np.uint8))
    with pytest.raises(UserError, match="float32"):
        runner.run(np.zeros((1, 8, 6, 3), np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 50), (5, 4), (1, 1), (64, 3)])
def test_resize_logits_is_torchs(align_corners: bool, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(3, 16, 13)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=align_corners)[0]
    np.testing.assert_allclose(resize_logits(logits, size, align_corners), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 50), (16, 20), (33, 21), (10, 60)])
def test_slide_is_mmsegs(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Windows whose logits depend on the place in the window, so that a wrong window or average would show."""
    mmseg = pytest.importorskip("mmseg.models.segmentors.encoder_decoder")
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    slide = Inference(mode="slide", crop_size=(16, 20), stride=(11, 13))
    contract = DYNAMIC.model_copy(update={"output": "logits", "inference": slide})
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)

    def place(logits: np.ndarray) -> np.ndarray:
        return logits * np.arange(1, logits.shape[-1] + 1, dtype=np.float32)

    inner = open_runner(str(save_graph(tmp_path / "g.onnx", contract)), "onnxruntime", 1)
    runner = SimpleNamespace(contract=contract, run=lambda images: place(inner.run(images)))
    network = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=slide.stride, crop_size=slide.crop_size),
        out_channels=2,
        encode_decode=lambda x, _: torch.from_numpy(place(inner.run(x.permute(0, 2, 3, 1).numpy().astype(np.uint8)))),
    )
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = mmseg.EncoderDecoder.slide_inference(network, pixels, [{"img_shape": shape}])[0].numpy()
    np.testing.assert_allclose(Segmenter(runner).logits(image), expected, rtol=1e-6, atol=1e-4)  # type: ignore[arg-type]


def test_static_graph_says_that_the_host_resized(tmp_path: Path, photos: Path) -> None:
    contract = DYNAMIC.model_copy(update={"batch": 1, "height": 75, "width": 100})
    segmenter = Segmenter(open_runner(str(save_graph(tmp_path / "g.onnx", contract)), threads=1))
    maps = segmenter.class_maps([read_image(path) for path in sorted(photos.iterdir())])
    assert [found.shape for found in maps] == [(150, 200)] * 2
    assert len(segmenter.notices) == 1 and "75x100" in segmenter.notices[0]


def test_predict_writes_map_areas_and_overlay(bundle: Path, photos: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(open_runner(str(bundle), threads=1))
    assert predict(segmenter, open_source(str(photos)), tmp_path / "out", parse_saves("overlay,classmap,json"), batch=2) == 2
    truth = read_image(photos / "coffee.png")[..., 0] > 127
    assert np.array_equal(cv2.imread(str(tmp_path / "out/coffee.classmap.png"), cv2.IMREAD_UNCHANGED), truth)
    areas = json.loads((tmp_path / "out/coffee.json").read_text())["classes"]
    assert areas["bright"] == {"pixels": int(truth.sum()), "share": truth.mean()}
    overlay = read_image(tmp_path / "out/coffee.overlay.png")
    assert overlay.shape[0] == 150 and overlay.shape[1] > 200
    assert not list((tmp_path / "out").glob(".*"))


def test_overlay_mixes_the_palette() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    assert draw_overlay(image, np.ones((4, 4), np.uint8), DYNAMIC, 0.5)[0, 0].tolist() == [178, 150, 50]
    assert class_areas(np.ones((4, 4), np.uint8), DYNAMIC) == {"bright": {"pixels": 16, "share": 1.0}}


def test_glob_and_shared_stems(photos: Path) -> None:
    write_image(photos / "coffee.bmp", read_image(photos / "coffee.png"))
    names = [frame.name for frame in open_source(f"{photos}/c*")]  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == 3 and not any("/" in name for name in names)


@pytest.mark.parametrize(("text", "words"), [("nothing.png", "does not exist"), ("*.nothing", "no image"), (".", "no image")])
def test_empty_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        open_source(text)


def test_video_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be opened"):
        open_source(str(tmp_path / "a.mp4"))


def test_bad_images_name_the_file(tmp_path: Path, photos: Path) -> None:
    whole = (photos / "coffee.png").read_bytes()
    jpeg = cv2.imencode(".jpg", read_image(photos / "coffee.png"))[1].tobytes()
    cases = {"cut.png": whole[:9000], "cut.jpg": jpeg[: len(jpeg) // 2], "empty.png": b"", "text.png": b"hello"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            list(open_source(str(tmp_path / name)))


@pytest.mark.parametrize("kind", ["grey", "rgba", "16bit", "1x1"])
def test_odd_images_have_a_class_map(bundle: Path, tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (30, 40), np.uint8)
    shaped = {
        "grey": pixels, "rgba": np.dstack([pixels] * 4), "16bit": pixels.astype(np.uint16) * 257, "1x1": pixels[:1, :1]
    }[kind]  # fmt: skip
    cv2.imwrite(str(tmp_path / "a.png"), shaped)
    predict(Segmenter(open_runner(str(bundle), threads=1)), open_source(str(tmp_path / "a.png")), tmp_path / "out", {"classmap", "overlay"})
    found = cv2.imread(str(tmp_path / "out/a.classmap.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, (pixels if kind != "1x1" else pixels[:1, :1]) > 127)


@pytest.mark.slow
def test_image_of_200_megapixels(tmp_path: Path) -> None:
    image = np.zeros((10000, 20000, 3), np.uint8)
    image[:, 10000:] = 255
    runner = open_runner(str(save_graph(tmp_path / "g.onnx", DYNAMIC.model_copy(update={"batch": 1, "height": 64, "width": 64}))))
    found = Segmenter(runner).class_map(image)
    assert found.shape == (10000, 20000) and found[:, :9900].max() == 0 and found[:, 10100:].min() == 1


def test_refused_targets(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'openvino'"):
        open_runner(str(bundle), "openvin")
    model = onnx.load(bundle / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="segc export"):
        open_runner(str(tmp_path / "bare.onnx"))
    onnx.save(model, bundle / "model.onnx")
    with pytest.raises(UserError, match="altered"):
        open_runner(str(bundle))


def test_contracts_that_disagree(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    other = manifest.contract.model_copy(update={"classes": ["bright", "dark"]})
    write_manifest(bundle, manifest.model_copy(update={"contract": other}))
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(UserError, match="disagree"):
            open_runner(str(bundle), backend)


def test_output_that_cannot_be_written(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        predict(Segmenter(open_runner(str(bundle), threads=1)), open_source(str(photos)), tmp_path / "file", {"json"})


def test_unknown_save() -> None:
    with pytest.raises(UserError, match="'overlay'"):
        parse_saves("overlays")


def test_benchmark_adds_up_and_is_stored(bundle: Path, photos: Path) -> None:
    images = sorted(photos.iterdir())
    results = benchmark_many(all_targets(bundle), threads=1, warmup=1, runs=6, images=images)
    for result in results:
        assert sum(value_of(result, f"{stage}_share") for stage in STAGES) == pytest.approx(100)
        assert value_of(result, "engine_p50") <= value_of(result, "engine_p90") <= value_of(result, "engine_p99")
        assert value_of(result, "engine_p50") < value_of(result, "pipeline_p50")
        assert value_of(result, "pixel_agreement") == 100
        stored = json.loads((bundle / f"results/benchmark.fp32.{result['backend']}.json").read_text())
        assert stored["rows"][0]["n"] == 6 and stored["rows"][0]["conditions"]["images"] == 2
    write_preferred(bundle, pick_preferred(results))
    fastest = min(results, key=lambda result: value_of(result, "engine_p50"))
    assert open_runner(str(bundle)).backend == fastest["backend"]


def test_noise_is_told_and_disagreement_is_never_preferred(bundle: Path) -> None:
    result = benchmark(str(bundle), "onnxruntime", threads=1, warmup=0, runs=2)
    assert result["rows"][0]["conditions"]["images"] == "noise"
    for row in result["rows"]:
        if row["metric"] == "pixel_agreement":
            row["value"] = 50.0
    with pytest.raises(UserError, match="no target agrees"):
        pick_preferred([result])


def test_interrupt_keeps_what_is_finished(bundle: Path, photos: Path, tmp_path: Path) -> None:
    image = cv2.resize(read_image(photos / "coffee.png"), (1600, 1200))
    for index in range(60):
        write_image(tmp_path / f"many/{index:03d}.png", image)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "segc.cli.main", "predict", str(tmp_path / "many"), "--model", str(bundle), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 40
    while not list(out.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=40)[1]
    assert process.returncode == 130 and "interrupted" in told and "Traceback" not in told
    finished = list(out.glob("*.json"))
    assert 0 < len(finished) < 60 and not list(out.glob(".*"))
    assert all(json.loads(path.read_text())["height"] == 1200 for path in finished)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:, :32] = 255
    jpeg = cv2.imencode(".jpg", upright)[1].tobytes()
    turn_clockwise = b"\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + turn_clockwise + bytes(4)
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    found = read_image(tmp_path / "a.jpg")
    assert found.shape == (64, 32, 3) and found[:28].min() > 200 and found[36:].max() < 50


def test_a_target_that_cannot_be_opened_in_its_process_is_told(bundle: Path) -> None:
    graph = bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"model\.onnx"):
        benchmark(str(bundle), "onnxruntime", threads=1, warmup=0, runs=2)


def test_a_measuring_process_that_dies_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segc.runtime.benchmark.sys.executable", "/bin/false")
    with pytest.raises(UserError, match=r"the process that measures .*@fp32 ended \(code 1\)"):
        benchmark(str(bundle), "onnxruntime", threads=1, warmup=0, runs=2)
