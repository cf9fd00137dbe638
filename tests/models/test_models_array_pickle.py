"""Pickles of detectron2's zoos: arrays come in, code does not."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.models.checkpoint import read_checkpoint

ARRAYS = {"stem.conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T, "steps": np.array(7, dtype=np.int64)}


def _pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_become_tensors(protocol: int, tmp_path: Path) -> None:
    path = _pickle(tmp_path / "model_final.pkl", {"model": OrderedDict(ARRAYS), "__author__": "nobody"}, protocol)
    state = read_checkpoint(path).state
    assert state.keys() == ARRAYS.keys()
    assert all(torch.equal(tensor, torch.tensor(ARRAYS[name])) for name, tensor in state.items())


def test_the_name_that_numpy_1_gave_its_module_is_known(tmp_path: Path) -> None:
    whole = pickle.dumps({"model": ARRAYS}, protocol=2)
    path = tmp_path / "old.pkl"
    path.write_bytes(whole.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert torch.equal(read_checkpoint(path).state["steps"], torch.tensor(7))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["beside the arrays", "inside an array"])
def test_code_is_refused_and_not_run(place: str, tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "ran")
    content = {"model": ARRAYS, "other": bomb} if place == "beside the arrays" else {"model": {"a": np.array([bomb, 1], dtype=object)}}
    with pytest.raises(UserError, match=r"could run code \(GLOBAL (posix|nt)\.mkdir\)"):
        read_checkpoint(_pickle(tmp_path / "evil.pkl", content))
    assert not (tmp_path / "ran").exists()


def test_convert_ends_with_a_sentence_and_writes_nothing(tmp_path: Path) -> None:
    evil, output = _pickle(tmp_path / "evil.pkl", {"model": Bomb(tmp_path / "ran")}), tmp_path / "out.safetensors"
    done = CliRunner().invoke(app, ["convert", "segc::quickstart/quickstart.py", "--weights", str(evil), "-o", str(output)])
    assert done.exit_code == 2 and "could run code" in done.output.replace("\n", " ") and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == [evil]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "a list"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    whole = _pickle(tmp_path / "whole.pkl", {"model": ARRAYS}).read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"weights", "empty": b"", "a list": pickle.dumps([1])}[damage]
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pkl"):
        read_checkpoint(tmp_path / "w.pkl")
