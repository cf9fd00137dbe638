"""The rendered street: sound as a dataset, the same for the same seed, true to its camera; and when it is the embedded one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from segc.core.errors import UserError
from segc.core.images import read_image
from segc.data import embedded, render
from segc.data.canvas import Camera
from segc.data.check import check_dataset
from segc.data.dataset import open_dataset
from segc.data.render import RenderOptions, render_dataset, render_scene

SMALL = RenderOptions(width=160, height=120, train=12, val=5)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_dataset(tmp_path_factory.mktemp("street") / "set", SMALL)


def test_it_is_a_sound_dataset(street: Path) -> None:
    report = check_dataset(street)
    assert report.passed
    assert [(split.split, split.pairs) for split in report.splits] == [("train", 12), ("val", 5)]
    assert report.spec.num_classes == 11
    assert all(share > 0.05 for share in report.splits[0].shares()), "a class hardly appears"
    assert max(report.splits[0].shares()) < 60
    assert 0 < report.splits[0].ignored_share() < 5


def test_files_hold_the_scenes(street: Path) -> None:
    dataset = open_dataset(street, split="val")
    image, label = render_scene(120, 160, (0, 1, 3))
    np.testing.assert_array_equal(dataset.read_label(dataset.pairs[3]), label)
    assert np.abs(read_image(dataset.pairs[3].image).astype(int) - image).mean() < 8  # JPEG


def test_seed_decides_the_scene() -> None:
    first, again, other = (render_scene(120, 160, seed) for seed in ((0, 0, 5), (0, 0, 5), (1, 0, 5)))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).mean() > 0.05


def test_sky_is_above_road() -> None:
    for index in range(6):
        _, label = render_scene(120, 160, (7, 0, index))
        rows = np.arange(120)[:, None].repeat(160, 1)
        assert rows[label == 0].max(initial=0) < rows[label == 3].min(initial=120) + 6


def test_rays_and_projection_agree() -> None:
    """A ground point found along the ray of a pixel projects back into the centre of that pixel."""
    camera = Camera(width=160, height=120, focal=140, horizon=55, x=-1.2, up=1.4, yaw=0.1)
    dx, dz = camera.columns()
    depth = camera.up / camera.rows()[70:]
    for row, t in enumerate(depth[::7]):
        points = np.stack([camera.x + t * dx, np.zeros(160), t * dz], axis=1)
        pixels, found = camera.project(points)
        np.testing.assert_allclose(pixels[:, 0], np.arange(160) + 0.5, atol=1e-3)
        np.testing.assert_allclose(pixels[:, 1], 70 + 7 * row + 0.5, atol=1e-3)
        np.testing.assert_allclose(found, t, rtol=1e-5)


def test_make_on_the_command_line(tmp_path: Path) -> None:
    from segc.cli.data import app

    arguments = ["make", str(tmp_path / "s"), "--train", "2", "--val", "1", "--width", "96", "--height", "64", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["data"]["size"] == [64, 96]
    assert len(open_dataset(tmp_path / "s", split="train")) == 2
    assert CliRunner().invoke(app, arguments).exit_code == 2, "an existing dataset is not overwritten"
    assert CliRunner().invoke(app, ["make", str(tmp_path / "t"), "--val", "0"]).exit_code == 2
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["data"]["layouts"]
    assert {row["layout"]: row["classes"] for row in listed}["ade20k"] == 150


def test_killed_rendering_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def dies(*_: object) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "render_scene", dies)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "s", SMALL)
    assert calls and list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists and is not empty"):
        render_dataset(tmp_path / "file", SMALL)
    with pytest.raises(UserError, match="cannot write"):
        render_dataset(tmp_path / "file" / "below", SMALL)


def test_embedded_is_camvid_where_it_is(camvid: Path) -> None:
    assert embedded.embedded_dataset().resolve() == camvid.resolve()


def test_embedded_is_rendered_once_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEGC_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = []

    def few(root: Path) -> Path:
        made.append(root)
        return render_dataset(root, RenderOptions(width=96, height=64, train=2, val=1))

    monkeypatch.setattr(embedded, "render_dataset", few)
    root = embedded.embedded_dataset()
    assert root == embedded.embedded_dataset() == made[0]
    assert len(made) == 1
    assert root.parent == tmp_path / "cache" / "segc" and str(render.RENDER_VERSION) in root.name
    assert "rendering the street scene" in capsys.readouterr().err
    assert len(open_dataset(root, split="train")) == 2


def test_two_processes_render_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of a distributed training ask for the dataset at the same moment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def slow(root: Path) -> Path:
        made.append(root)
        time.sleep(0.2)
        root.mkdir()
        return root

    monkeypatch.setattr(embedded, "render_dataset", slow)
    with ThreadPoolExecutor(4) as pool:
        roots = list(pool.map(lambda _: embedded.rendered_dataset(), range(4)))
    assert len(set(roots)) == len(made) == 1


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .*file"):
        embedded.rendered_dataset()


def test_readers_need_no_training_stack() -> None:
    code = (
        "import sys, segc.cli.data, segc.data.check, segc.data.embedded;"
        "print(sorted({'torch', 'mmseg', 'mmcv', 'mmengine', 'onnx', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
