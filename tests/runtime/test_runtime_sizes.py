"""A graph of a fixed size refuses other images with both sizes named, in every runtime; the segmenter brings images to its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from smallnet import HEIGHT, WIDTH, small_bundle

from segc.core.errors import UserError
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter

BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("sizes") / "bundle")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, HEIGHT + 1, WIDTH, 3), (2, HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH, 4), (HEIGHT, WIDTH, 3)])
def test_other_images_are_refused(bundle: Path, backend: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=rf"uint8 \({', '.join(map(str, shape))}\); the graph takes uint8 \(1, {HEIGHT}, {WIDTH}, 3\), RGB"):
        open_runner(str(bundle), backend, 1).run(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_that_are_no_bytes_are_refused(bundle: Path, backend: str) -> None:
    with pytest.raises(UserError, match="images are float32"):
        open_runner(str(bundle), backend, 1).run(np.zeros((1, HEIGHT, WIDTH, 3), np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_segmenter_takes_any_size(bundle: Path, backend: str) -> None:
    assert Segmenter(open_runner(str(bundle), backend, 1)).class_map(np.zeros((50, 37, 3), np.uint8)).shape == (50, 37)
