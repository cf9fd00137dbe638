"""The C++ sample, compiled against TensorRT's headers and run with a TensorRT and a CUDA runtime that work in host memory."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.core.errors import UserError
from segc.ops.native.library import find_compiler
from segc.ops.tensorrt.build import find_nvcc, tensorrt_headers

SAMPLE = Path(__file__).resolve().parents[2] / "runtime" / "cpp"
HEIGHT, WIDTH = 5, 7


def stub(header: str, name: str) -> str:
    """A class that ends the program at every pure virtual method of ``apiv::V<name>``."""
    body = re.search(rf"class V{name} : public VRoot\n{{(.*?)\n}};", header, re.S)
    assert body, f"NvInferImpl.h has no V{name}"
    methods = re.findall(r"virtual ([^;{}]*?) = 0;", re.sub(r"//[^\n]*|#[^\n]*", "", body[1]), re.S)
    assert len(methods) > 20
    defined = "\n".join(f"    {' '.join(method.split())} {{ std::abort(); }}" for method in methods)
    return f"struct Stub{name} : nvinfer1::apiv::V{name} {{\n{defined}\n}};\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        nvcc, headers = find_nvcc(), tensorrt_headers()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cpp")
    header = (headers / "NvInferImpl.h").read_text()
    using = "#include <cstdlib>\nnamespace {\nusing namespace nvinfer1;\n"
    (folder / "stubs.h").write_text(using + "".join(stub(header, name) for name in ("Runtime", "CudaEngine", "ExecutionContext")) + "}\n")
    sources = [str(SAMPLE / "segment.cpp"), str(Path(__file__).parent / "cpp" / "fake_nvinfer.cpp")]
    flags = ["-std=c++17", "-Xcompiler", "-Wall,-Wextra,-Wno-unused-parameter", "--cudart", "none", f"-I{folder}", "-isystem", str(headers)]
    command = [nvcc, *flags, *sources, "-o", str(folder / "segment")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "segment.cpp:" not in done.stderr, f"warnings: {done.stderr}"
    (folder / "engine").write_text(f"fake engine {HEIGHT} {WIDTH}")
    return folder / "segment"


def run(program: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, env={**os.environ, **variables})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.ppm"), pixels)
    return tmp_path / "a.ppm"


@pytest.mark.parametrize("comment", [b"", b"# made by hand\n"])
def test_the_class_map(program: Path, picture: Path, comment: bytes) -> None:
    picture.write_bytes(picture.read_bytes().replace(b"P6\n", b"P6\n" + comment))
    done = run(program, program.parent / "engine", picture, picture.with_suffix(".pgm"))
    assert done.returncode == 0, done.stderr
    found = cv2.imread(str(picture.with_suffix(".pgm")), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, cv2.imread(str(picture))[..., 2] > 127) and 0 < found.mean() < 1


def test_mistakes_are_one_sentence(program: Path, picture: Path, tmp_path: Path) -> None:
    engine, out = program.parent / "engine", tmp_path / "a.pgm"
    damaged, other, cut = tmp_path / "damaged", tmp_path / "other.ppm", tmp_path / "cut.ppm"
    damaged.write_bytes(b"no engine")
    cut.write_bytes(picture.read_bytes()[:-1])
    cv2.imwrite(str(other), np.zeros((4, 4, 3), np.uint8))
    cases = [
        ((tmp_path / "none", picture, out), "none cannot be read."),
        ((engine, tmp_path / "none.ppm", out), "none.ppm cannot be read."),
        ((engine, engine, out), "is not a PPM picture"),
        ((engine, cut, out), "is cut off"),
        ((engine, other, out), "the picture is 4x4, the engine takes 1x5x7x3"),
        ((damaged, picture, out), "damaged is no engine of this TensorRT and GPU"),
        ((engine, picture, tmp_path / "no" / "a.pgm"), "cannot be written"),
    ]
    for words, message in cases:
        done = run(program, *words)
        assert done.returncode == 2 and message in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    done = run(program, engine, picture, out, FAKE_NO_GPU="1")
    assert done.returncode == 2 and done.stderr.startswith("error: cudaGetDeviceCount failed: CUDA driver version is insufficient")
    assert run(program).returncode == 2 and not out.exists()


def test_cmake_finds_tensorrt_and_builds(program: Path, tmp_path: Path) -> None:
    """With a TensorRT folder as the tar files have it; its library is an empty one that has the one function needed."""
    (tmp_path / "home/lib").mkdir(parents=True)
    (tmp_path / "home/include").symlink_to(tensorrt_headers())
    (tmp_path / "a.cpp").write_text('extern "C" void* createInferRuntime_INTERNAL(void*, int) { return nullptr; }\n')
    compiler = [find_compiler(), "-shared", "-fPIC", str(tmp_path / "a.cpp"), "-o", str(tmp_path / "home/lib/libnvinfer.so")]
    subprocess.run(compiler, check=True)
    configure = ["cmake", "-S", str(SAMPLE), "-B", str(tmp_path / "build"), f"-DTENSORRT_HOME={tmp_path / 'home'}"]
    for command in (configure, ["cmake", "--build", str(tmp_path / "build")]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "usage: segment" in run(tmp_path / "build/segment").stderr
    done = subprocess.run(
        [*configure[:5], "-B", str(tmp_path / "other"), f"-DTENSORRT_HOME={tmp_path / 'none'}"], capture_output=True, text=True
    )
    assert done.returncode and "apt-get install libnvinfer-dev" in done.stderr
