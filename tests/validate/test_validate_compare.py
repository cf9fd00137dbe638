"""Agreement and flicker of two artefacts on footage without labels, against counts made by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from toy import make_bundle
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import write_image
from segc.core.rows import value_of
from segc.runtime.sources import open_source
from segc.validate.compare import Flicker, compare
from segc.validate.timeline import MOST_POINTS, timeline

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Two toy graphs: red above 127 is bright in the one, above 150 in the other."""
    first, second = (make_bundle(tmp_path / name) / "model.onnx" for name in ("a", "b"))
    model = onnx.load(second)
    next(each for each in model.graph.initializer if each.name == "half").float_data[0] = 150.0
    onnx.save(model, second)
    return str(first), str(second)


def footage(folder: Path, reds: list[int]) -> Path:
    """Frames of one colour each."""
    for index, red in enumerate(reds):
        write_image(folder / f"{index:03d}.png", np.full((HEIGHT, WIDTH, 3), (red, 60, 60), np.uint8))
    return folder


def test_agreement_and_flicker_are_those_counted_by_hand(pair: tuple[str, str], tmp_path: Path) -> None:
    """126 -> 128: still, and the class changes in A only. 128 -> 200: not still. 200 -> 201: still, no change."""
    result = compare(*pair, open_source(str(footage(tmp_path / "frames", [126, 128, 200, 201]))))
    assert [frame["agreement"] for frame in result["frames"]] == [100, 0, 100, 100]
    assert [frame["still"] for frame in result["frames"]] == [0, HEIGHT * WIDTH, 0, HEIGHT * WIDTH]
    assert value_of(result, "pixel agreement") == 75 and value_of(result, "least agreement of a frame") == 0
    assert value_of(result, "flicker of A") == 50 and value_of(result, "flicker of B") == 0
    dark, bright = result["per_class"]
    assert (dark["pixels_a"], dark["pixels_b"]) == (HEIGHT * WIDTH, 2 * HEIGHT * WIDTH)
    assert dark["agreement"] == 50 and bright["agreement"] == pytest.approx(100 * 2 / 3)


def test_a_moving_edge_is_not_flicker() -> None:
    """Where the image changes the class may; elsewhere a change is counted pixel by pixel."""
    flicker = Flicker()
    before, after = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10, 3), np.uint8)
    after[:, 5:] = 200
    map_before, map_after = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    map_after[:, 5:] = 1
    map_after[0, 0] = 1
    assert flicker.add(before, [map_before]) is None
    # The smoothing spreads the edge by one pixel.
    assert flicker.add(after, [map_after]) == (10 * 4, [1])
    assert flicker.add(np.zeros((5, 5, 3), np.uint8), [np.zeros((5, 5))]) is None


def test_a_video_gives_a_page_that_loads_nothing(pair: tuple[str, str], tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for red in (20, 120, 140, 220):
        writer.write(np.full((HEIGHT, WIDTH, 3), (60, 60, red), np.uint8))
    writer.release()
    command = ["compare", *pair, str(tmp_path / "drive.avi"), "-o", str(tmp_path / "drive.html"), "--json"]
    passed = CliRunner().invoke(app, [*command, "--min-agreement", "70"])
    told = json.loads(passed.stdout)
    assert passed.exit_code == 0 and "75.00 % of the pixels agree on 4 frames" in told["summary"]
    assert CliRunner().invoke(app, [*command, "--min-agreement", "80"]).exit_code == 1
    page = (tmp_path / "drive.html").read_text()
    assert page.count("<polyline") >= 1 and page.count("<figure>") == 3 and page.count("data:image/") == 12
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and str(tmp_path) not in page


def test_names_of_frames_are_text_on_the_page(pair: tuple[str, str], tmp_path: Path) -> None:
    """Also under the timeline, which is a template of its own."""
    frames = footage(tmp_path / "frames", [20, 140])
    (frames / "000.png").rename(frames / "<b>x.png")
    page = tmp_path / "page.html"
    assert CliRunner().invoke(app, ["compare", *pair, str(frames), "-o", str(page)]).exit_code == 0
    assert "<b>x" not in page.read_text() and page.read_text().count("&lt;b&gt;x") > 1


def test_mistakes_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    frames = str(footage(tmp_path / "frames", [1]))
    assert CliRunner().invoke(app, ["compare", *pair, frames, "-o", "page.png"]).exit_code == 2
    from toy import DYNAMIC

    other = make_bundle(tmp_path / "other", DYNAMIC.model_copy(update={"classes": ["night", "day"]}))
    with pytest.raises(UserError, match=r"other classes: dark, bright\.\.\. against night, day"):
        compare(pair[0], str(other), open_source(frames))


def test_a_long_timeline_is_thinned_to_means() -> None:
    found = timeline({"x": [0.0, 100.0] * MOST_POINTS}, [str(index) for index in range(2 * MOST_POINTS)])
    points = found["lines"][0]["points"].split()
    heights = {float(point.partition(",")[2]) for point in points}
    assert len(points) == MOST_POINTS and len(heights) == 1
    assert found["first"] == "0" and found["last"] == str(2 * MOST_POINTS - 1)
    assert timeline({"x": [None, None]}, ["0", "1"]) == {}
