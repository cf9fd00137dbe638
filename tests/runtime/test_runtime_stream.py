"""Streams: a file loses no frame, a live source drops what is late, its recording keeps time, ^C leaves whole files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy import make_bundle

from segc.core.errors import UserError
from segc.runtime.ahead import Ahead
from segc.runtime.overlay import draw_text
from segc.runtime.recording import Recording
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.sources import Frame, VideoSource, open_source
from segc.runtime.stream import StreamOptions, predict_stream

HEIGHT, WIDTH, FPS = 96, 128, 50


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter(open_runner(str(bundle), threads=1))


def picture(index: int) -> np.ndarray:
    """A bright bar whose place tells the index."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, index % WIDTH :] = 255
    return image


def clip(path: Path, count: int, fps: float = 10) -> Path:
    recording = Recording(path, fps)
    for index in range(count):
        recording.write(picture(4 * index))
    recording.close()
    return path


def shades(path: Path) -> list[int]:
    return [round(float(frame.image.mean())) for frame in open_source(str(path))]  # type: ignore[union-attr]


class Slow:
    """A runner that takes its time."""

    def __init__(self, segmenter: Segmenter, seconds: float) -> None:
        self._inner, self._seconds = segmenter.runner, seconds
        self.contract, self.backend, self.precision = self._inner.contract, "slow", "fp32"

    def run(self, images: np.ndarray) -> np.ndarray:
        time.sleep(self._seconds)
        return self._inner.run(images)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def camera() -> Iterator[str]:
    """Address of a network camera (motion JPEG) that sends 50 pictures a second until nobody listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for index in range(40 * FPS):
                jpeg = cv2.imencode(".jpg", picture(index))[1].tobytes()
                try:
                    self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
                except OSError:
                    return
                time.sleep(1 / FPS)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def numbers(count: int, pause_s: float = 0.0, closed: list[bool] | None = None) -> Generator[int, None, None]:
    try:
        for index in range(count):
            time.sleep(pause_s)
            yield index
    finally:
        if closed is not None:
            closed.append(True)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_full_queue_waits_and_loses_nothing(depth: int) -> None:
    ahead = Ahead(numbers(50), depth)
    time.sleep(0.05)
    assert ahead.made <= depth + 1
    assert list(ahead) == list(range(50)) and (ahead.made, ahead.dropped) == (50, 0)


def test_a_full_queue_that_drops_keeps_the_newest() -> None:
    ahead = Ahead(numbers(50), 3, drop_oldest=True)
    while ahead.made < 50:
        time.sleep(0.001)
    assert list(ahead) == [47, 48, 49] and ahead.dropped == 47


def test_an_error_of_the_maker_comes_after_what_was_made() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise UserError("the cable is out.")

    found = []
    with pytest.raises(UserError, match="cable"):
        for item in Ahead(broken(), 4):
            found.append(item)
    assert found == [1]


def test_close_ends_a_maker_that_waits_for_room() -> None:
    closed: list[bool] = []
    ahead = Ahead(numbers(1000, closed=closed), 1)
    ahead.close()
    assert closed == [True] and list(ahead) == [] and ahead.made < 10


def test_a_file_is_segmented_whole_however_slow_the_network(segmenter: Segmenter, tmp_path: Path) -> None:
    source = open_source(str(clip(tmp_path / "clip.mp4", 12)))
    assert isinstance(source, VideoSource) and not source.live
    options = StreamOptions(tmp_path / "out", frozenset({"overlay", "json"}), queue=1)
    told = predict_stream(Segmenter(Slow(segmenter, 0.01)), source, options)
    assert (told["frames_read"], told["frames_segmented"], told["frames_dropped"], told["stopped"]) == (12, 12, 0, False)
    lines = [json.loads(line) for line in (tmp_path / "out/clip.jsonl").read_text().splitlines()]
    areas = [line["classes"]["bright"]["share"] for line in lines]
    np.testing.assert_allclose(areas, 1 - 4 * np.arange(12) / WIDTH, atol=0.02)
    assert len(shades(tmp_path / "out/clip.overlay.mp4")) == 12


def test_a_live_source_drops_and_its_recording_keeps_time(segmenter: Segmenter, camera: str, tmp_path: Path) -> None:
    source = open_source(camera)
    assert isinstance(source, VideoSource) and source.live and source.frames is None and "secret" not in source.name
    source.fps = 25.0
    options = StreamOptions(None, record=tmp_path / "live.mp4", stats=True, queue=2, limit=12)
    told = predict_stream(Segmenter(Slow(segmenter, 0.1)), source, options)
    assert told["frames_segmented"] == 12
    assert told["frames_dropped"] > 12, "the network takes a fifth of the rate"
    assert 0 <= told["frames_read"] - told["frames_segmented"] - told["frames_dropped"] <= 6, "the rest is in the queues"
    assert 100 <= told["latency_p50_ms"] <= told["latency_p99_ms"]
    shown = len(shades(tmp_path / "live.mp4")) / 25
    assert shown == pytest.approx(told["seconds"], abs=0.6) and shown > 11 * 0.1 - 0.1


def test_a_live_source_that_ends_is_told_as_frames(segmenter: Segmenter, tmp_path: Path) -> None:
    class Once:
        name, fps, frames, live = "once", 10.0, None, True

        def __iter__(self) -> Generator[Frame, None, None]:
            yield Frame("once_0", picture(0))

    told = predict_stream(segmenter, Once(), StreamOptions(tmp_path, frozenset({"classmap"})))  # type: ignore[arg-type]
    assert told["frames_segmented"] == 1 and (tmp_path / "once_0.classmap.png").exists()


def test_recording_repeats_and_leaves_out(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.mp4", 10)
    for shade, seconds in ((0, 0.0), (100, 0.3), (150, 0.31), (250, 0.4)):
        recording.write(np.full((HEIGHT + 1, WIDTH + 1, 3), shade, np.uint8), seconds)
    recording.close()
    np.testing.assert_allclose(shades(tmp_path / "a.mp4"), [0, 0, 0, 100, 250], atol=4)


def test_recording_of_pictures_that_change_their_size(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.mp4", 10)
    for size in ((HEIGHT, WIDTH), (2 * HEIGHT, 3 * WIDTH)):
        recording.write(np.full((*size, 3), 200, np.uint8))
    recording.close()
    assert len(shades(tmp_path / "a.mp4")) == 2


def test_text_is_drawn_on_a_band_of_its_own() -> None:
    marked = draw_text(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "25.0 fps")
    assert marked[:14].min() == 30 and marked[:14].max() > 200 and (marked[16:] == 90).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rtsp://me:secret@127.0.0.1:1/x", r"stream rtsp://127\.0\.0\.1:1 cannot be opened"),
        ("/dev/null", "camera /dev/null cannot"),
        ("videotestsrc ! appsink", "without GStreamer"),
    ],
)
def test_streams_that_cannot_be_opened(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        open_source(text)
    assert "secret" not in str(told.value)


def test_a_pipeline_ends_in_appsink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.videoio_registry.hasBackend", lambda _: True)
    with pytest.raises(UserError, match="appsink"):
        open_source("videotestsrc ! autovideosink")


def interrupted(words: list[str], temporary: str, folder: Path) -> tuple[int, str, str]:
    """Exit code and output of a command that gets ^C when this file has some frames."""
    command = [sys.executable, "-m", "segc.cli.main", "predict", *words, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob(temporary)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_interrupt_of_a_live_stream_is_its_end(bundle: Path, camera: str, tmp_path: Path) -> None:
    record = tmp_path / "live.mp4"
    code, out, err = interrupted([camera, "-m", str(bundle), "--record", str(record)], ".live.mp4.*", tmp_path)
    told = json.loads(out)["data"]
    assert code == 0 and "Traceback" not in err and told["stream"]["stopped"]
    assert len(shades(record)) >= told["frames"] // 3 > 0 and not list(tmp_path.glob(".live*"))


def test_interrupt_of_a_file_keeps_what_is_finished(bundle: Path, tmp_path: Path) -> None:
    long = clip(tmp_path / "long.mp4", 3000)
    out = tmp_path / "out"
    code, _, err = interrupted([str(long), "-m", str(bundle), "-o", str(out), "--save", "overlay,json"], ".long.jsonl.*", out)
    assert code == 130 and "stopped before the end" in err and "Traceback" not in err
    lines = (out / "long.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 3000 and len(shades(out / "long.overlay.mp4")) in (len(lines), len(lines) + 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["clip.mp4"], "nothing says where to write"),
        (["clip.mp4", "--record", "a.avi"], "does not end in .mp4"),
        (["a.png", "-o", "out", "--stats"], "are for streams"),
    ],
)
def test_options_that_do_not_fit(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str) -> None:
    from typer.testing import CliRunner

    from segc.cli.main import app

    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "clip.mp4", 1)
    cv2.imwrite("a.png", picture(3))
    done = CliRunner().invoke(app, ["predict", *options, "-m", str(bundle)])
    assert done.exit_code == 2 and words in done.stderr
