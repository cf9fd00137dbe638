"""Sparse confusion matrices of many images: what goes in comes out, files of anyone are refused, large sets stay small."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.core.errors import UserError
from segc.validate.confusions import Confusions, load_confusions, save_confusions


def filled(matrices: list[np.ndarray], classes: int) -> Confusions:
    found = Confusions(classes)
    for matrix in matrices:
        found.append(matrix)
    return found


@st.composite
def matrix_lists(draw: st.DrawFn) -> tuple[list[np.ndarray], int]:
    rng, classes = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([1, 2, 19, 300]))
    count, density = draw(st.integers(0, 5)), draw(st.sampled_from([0.0, 0.02, 1.0]))
    shape = (count, classes, classes)
    return list(np.where(rng.random(shape) < density, rng.integers(0, 2**32, shape), 0)), classes


@given(matrix_lists())
@settings(max_examples=25)
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, case: tuple[list[np.ndarray], int]) -> None:
    matrices, classes = case
    path = tmp_path_factory.mktemp("confusions") / "x.npz"
    save_confusions(path, {"target": filled(matrices, classes), "against": filled(matrices[::-1], classes)})
    found = load_confusions(path)
    assert list(found) == ["target", "against"]
    for side, expected in (("target", matrices), ("against", matrices[::-1])):
        assert len(found[side]) == len(expected)
        for one, other in zip(found[side], expected, strict=True):
            np.testing.assert_array_equal(one, other)


@given(matrix_lists())
def test_sums_are_those_of_the_whole_matrices(case: tuple[list[np.ndarray], int]) -> None:
    matrices, classes = case
    stack = np.array(matrices, np.int64).reshape(len(matrices), classes, classes)
    found = filled(matrices, classes)
    counts = found.counts()
    np.testing.assert_array_equal(found.total, stack.sum(0))
    np.testing.assert_array_equal(counts.right, np.diagonal(stack, axis1=1, axis2=2))
    np.testing.assert_array_equal(counts.label, stack.sum(2))
    np.testing.assert_array_equal(counts.found, stack.sum(1))


@pytest.mark.parametrize("matrix", [np.full((2, 2), -1), np.full((2, 2), 2**32), np.zeros((3, 3), int)])
def test_what_is_no_confusion_matrix_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="confusion matrix"):
        Confusions(2).append(matrix)


def test_2000_images_of_150_classes_stay_small(tmp_path: Path) -> None:
    """As ADE20K's validation split: some ten classes an image, each taken for a few others."""
    rng = np.random.default_rng(0)
    found = Confusions(150)
    for _ in range(2000):
        here = rng.choice(150, 10, replace=False)
        matrix = np.zeros((150, 150), np.int64)
        matrix[rng.choice(here, 120), rng.choice(here, 120)] = rng.integers(1, 3000, 120)
        matrix[here, here] = rng.integers(1000, 60_000, 10)
        found.append(matrix)
    save_confusions(tmp_path / "x.npz", {"target": found, "against": found})
    dense = 2 * 2000 * 150**2 * 8
    assert (tmp_path / "x.npz").stat().st_size < 2 << 20 < dense / 300


def good() -> dict[str, np.ndarray]:
    return {f"target.{name}": values for name, values in filled([np.eye(2, dtype=int)] * 2, 2).arrays().items()}


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("cells", np.array([0, 3, 0, 4], np.uint16), "outside"),
        ("cells", np.array([3, 0, 0, 3], np.uint16), "twice"),
        ("cells", np.array([0, 0, 0, 3], np.uint16), "twice"),
        ("cells", np.array([0, 3], np.uint16), "length"),
        ("counts", np.array([1, 1, 0, 1], np.uint32), "empty"),
        ("ends", np.array([5, 4], np.uint64), "outside"),
        ("ends", np.array([2**63, 4], np.uint64), "outside"),
        ("ends", np.array([2, 9], np.uint64), "length"),
        ("classes", np.array(0, np.uint32), "classes"),
        ("counts", np.array([1.0, 1, 1, 1]), "float64"),
        ("counts", np.array([{}], object), "object"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, values: np.ndarray, why: str) -> None:
    np.savez(tmp_path / "x.npz", **{**good(), f"target.{name}": values})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=why):
        load_confusions(tmp_path / "x.npz")


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segc.validate.confusions._LARGEST_FILE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("target.cells.npy", "w") as member:
        member.write(bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="1048577 bytes when unpacked"):
        load_confusions(tmp_path / "bomb.npz")


def test_an_array_that_says_it_is_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<u4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        archive.writestr("target.cells.npy", stream.getvalue())
    with pytest.raises(UserError, match="says it holds"):
        load_confusions(tmp_path / "liar.npz")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match=r"x\.npz holds no confusion matrices"):
        load_confusions(path)
    save_confusions(path, {"target": filled([np.eye(2, dtype=int)], 2)})
    data = path.read_bytes()
    for cut in range(0, len(data), 37):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"x\.npz holds no confusion matrices"):
            load_confusions(path)
