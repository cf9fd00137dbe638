"""Which plugin library a TensorRT on a GPU may take, told from its file; `segc plugins` as a user types it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.files import write_json
from segc.ops.tensorrt.library import check_library, choose_library, find_libraries, read_library, sidecar

MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEGC_PLUGIN", raising=False)
    return tmp_path / "cache" / "tensorrt"


def a_library(path: Path, machine: str = platform.machine(), **told: object) -> Path:
    """The head of an ELF file (magic, class, and the machine at byte 18)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + MACHINES[machine].to_bytes(2, "little") + bytes(64))
    if told:
        write_json(sidecar(path), told)
    return path


def test_the_machine_is_read_from_the_file(tmp_path: Path) -> None:
    assert read_library(a_library(tmp_path / "a.so", "aarch64")).machine == "aarch64"
    (tmp_path / "text.so").write_text("no library, but longer than a head")
    for path, told in ((tmp_path / "text.so", "is not a shared library"), (tmp_path / "absent.so", "does not exist")):
        with pytest.raises(UserError, match=f"{told}.*segc plugins build"):
            read_library(path)


@pytest.mark.parametrize(
    ("told", "tensorrt", "capability", "refused"),
    [
        ({"arch": [86, 87], "tensorrt": "10.14"}, "10.3.0", "8.7", ""),
        ({"arch": [86, 87], "tensorrt": "10.14"}, "10.3.0", "12.0", ""),  # by the PTX of the last
        ({"arch": [86, 90], "tensorrt": "10.14"}, "10.3.0", "8.7", "GPUs sm_86, sm_90, and sm_87 is needed"),
        ({"arch": [87], "tensorrt": "10.14"}, "11.4.1", "8.7", r"TensorRT 10\.14, and 11\.x is needed"),
        ({}, "11.4.1", "8.7", ""),
    ],
)
def test_a_library_of_another_abi_or_gpu_is_refused(
    tmp_path: Path, told: dict[str, object], tensorrt: str, capability: str, refused: str
) -> None:
    library = read_library(a_library(tmp_path / "a.so", **told))
    assert (choose_library([library], tensorrt, capability) is None) == bool(refused)
    if not refused:
        check_library(library, tensorrt, capability)
        return
    with pytest.raises(UserError, match=refused):
        check_library(library, tensorrt, capability)


def test_another_processors_library_is_refused(tmp_path: Path) -> None:
    other = next(name for name in MACHINES if name != platform.machine())
    with pytest.raises(UserError, match=f"the processor {other}"):
        check_library(read_library(a_library(tmp_path / "a.so", other)), "10.3.0", "8.7")


def test_the_named_library_comes_first_and_all_are_listed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = a_library(cache / "segc_plugin_0123.so", arch=[87], tensorrt="10.14")
    named = a_library(tmp_path / "mine.so")
    monkeypatch.setenv("SEGC_PLUGIN", str(named))
    assert [item.path for item in find_libraries()] == [named, built]
    told = json.loads(CliRunner().invoke(app, ["plugins", "list", "--json"]).stdout)
    assert [item["arch"] for item in told["data"]["libraries"]] == [[], [87]]


def test_no_library_says_how_one_is_built() -> None:
    assert "segc plugins build" in CliRunner().invoke(app, ["plugins", "list"]).output
    done = CliRunner().invoke(app, ["plugins", "build", "--arch", "1"])
    assert done.exit_code == 2 and ("cannot compile for [1]" in done.output or "was not found" in done.output)
