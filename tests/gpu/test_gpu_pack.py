"""The parts that carry segc to a GPU host: put together they are what was packed; what is damaged on the way is named."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gpu_pack


def wheel(folder: Path, name: str, version: str = "1") -> Path:
    """A wheel of one module that tells its version."""
    folder.mkdir(parents=True, exist_ok=True)
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parts of a tiny segc whose wheels pip "downloads"; what pip was asked for lies in ``asked``."""

    def pip(*words: str) -> None:
        with (tmp_path / "asked").open("a") as stream:
            print(*words, file=stream)
        if words[0] == "wheel":
            wheel(Path(words[words.index("--wheel-dir") + 1]), "segc")
        else:
            for name in (*gpu_pack.TEST_PACKAGES, "onnxruntime", "onnxruntime-gpu"):
                wheel(Path(words[words.index("--dest") + 1]), name)

    monkeypatch.setattr(gpu_pack, "_pip", pip)
    parts = gpu_pack.pack(tmp_path / "parts", "", ["onnxruntime-gpu"], part_bytes=200_000)
    assert len(parts) > 3 and all(part.stat().st_size <= 200_000 for part in parts)
    return tmp_path / "parts"


@settings(max_examples=15)
@given(data=st.binary(max_size=4000), part_bytes=st.integers(700, 12_000))
def test_parts_give_the_file_again(tmp_path_factory: pytest.TempPathFactory, data: bytes, part_bytes: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "data").write_bytes(data)
    with tarfile.open(folder / "all.tar", "w") as tar:
        tar.add(folder / "data", "data")
    parts = gpu_pack.split(folder / "all.tar", folder / "out", {"packages": ["a"]}, part_bytes)
    assert all(part.stat().st_size <= part_bytes for part in parts)
    assert gpu_pack.join(folder / "out", folder / "there") == {"packages": ["a"]}
    assert (folder / "there" / "data").read_bytes() == data


def test_what_is_missing_or_damaged_is_named(packed: Path, tmp_path: Path) -> None:
    (packed / "part.001").unlink()
    (packed / "part.002").write_bytes(b"half")
    with pytest.raises(SystemExit, match=r"missing or damaged: part\.001, part\.002; copy"):
        gpu_pack.join(packed, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_the_pack_holds_the_wheels_and_the_checkout(packed: Path, tmp_path: Path) -> None:
    gpu_pack.join(packed, tmp_path / "there")
    ours = Path(__file__).with_name("test_gpu_tensorrt.py")
    assert (tmp_path / "there/checkout/tests/gpu" / ours.name).read_bytes() == ours.read_bytes()
    assert not (tmp_path / "there/checkout/build").exists(), "tracked files only"
    assert {"segc-1-py3-none-any.whl", "pytest-1-py3-none-any.whl"} <= {path.name for path in (tmp_path / "there/wheels").iterdir()}
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0].startswith("wheel") and asked[2].startswith("download") and asked[2].endswith("onnxruntime-gpu")


@pytest.mark.slow
def test_unpacked_without_a_registry(packed: Path, tmp_path: Path) -> None:
    """By the copy of the script among the parts, as on the host; the GPU's ONNX Runtime replaces the other."""
    subprocess.run([sys.executable, str(packed / "gpu_pack.py"), "unpack", str(packed), str(tmp_path / "there")], check=True)
    site = next((tmp_path / "there/venv/lib").glob("*/site-packages"))
    names = {path.name.partition("-")[0] for path in site.glob("*.dist-info")}
    assert {"segc", "onnxruntime_gpu"} <= names and "onnxruntime" not in names
