"""Compiling and loading the native kernels, and the arithmetic they are built from."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segc.core.errors import UserError
from segc.ops import reference, scan
from segc.ops.native import library
from segc.ops.native import scan as native_scan
from segc.ops.native.scan import Call
from tests.ops.scan_inputs import TOLERANCE, Case, assert_near, gradients, in_double, inputs

# Exports the header's functions over arrays whose length is a multiple of every width.
PROBE = """
#include "simd.h"
using namespace segc;
template <class T, class F> void map(const T* x, T* y, long n, F f) {
    for (long i = 0; i < n; i += Simd<T>::width) store<T>(y + i, f(load<T>(x + i)));
}
#define PROBE(T) \\
    extern "C" __attribute__((visibility("default"))) void exp_##T(const T* x, T* y, long n) { map(x, y, n, segc::exp<T>); } \\
    extern "C" __attribute__((visibility("default"))) void softplus_##T(const T* x, T* y, long n) { map(x, y, n, softplus<T>); } \\
    extern "C" __attribute__((visibility("default"))) void slope_##T(const T* x, T* y, long n) { map(x, y, n, softplus_slope<T>); } \\
    extern "C" __attribute__((visibility("default"))) int transpose_##T() { \\
        constexpr int W = Simd<T>::width; \\
        Vec<T> rows[W]; \\
        for (int i = 0; i < W; ++i) for (int j = 0; j < W; ++j) rows[i][j] = i * W + j; \\
        transpose<T>(rows); \\
        int right = 0; \\
        for (int i = 0; i < W; ++i) for (int j = 0; j < W; ++j) right += rows[i][j] == j * W + i; \\
        return right - W * W; \\
    }
PROBE(float)
PROBE(double)
"""
# The processor's own instructions, and the plain vectors that every other processor gets.
TARGETS = {"native": [], "portable": ["-mno-avx512f", "-mno-avx"] if library.platform.machine() == "x86_64" else []}


@pytest.fixture(params=TARGETS, scope="module")
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text(PROBE)
    flags = [*library.FLAGS, *TARGETS[request.param], f"-I{library.FOLDER}"]
    subprocess.run([library.find_compiler(), *flags, "-shared", folder / "probe.cpp", "-o", folder / "probe.so"], check=True)
    return ctypes.CDLL(str(folder / "probe.so"))


def call(probe: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    kind = "float" if x.dtype == np.float32 else "double"
    getattr(probe, f"{name}_{kind}")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_long(x.size))
    return y


def units(actual: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units in the last place of the exact result."""
    return float(np.max(np.abs(actual.astype(np.longdouble) - exact) / np.spacing(exact.astype(actual.dtype))))


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float32, -104, 88.7), (np.float64, -745, 709.7)])
def test_exp_and_softplus_over_their_whole_range(probe: ctypes.CDLL, dtype: type, low: float, high: float) -> None:
    wide, narrow = np.linspace(low, high, 1 << 16).astype(dtype), np.linspace(-20, 21, 1 << 16).astype(dtype)
    for x in (wide, narrow):
        exact = np.exp(x.astype(np.longdouble))
        assert units(call(probe, "exp", x), exact) < 1.5
        assert units(call(probe, "softplus", x), np.where(x > 20, x, np.log1p(exact))) < 4
        assert units(call(probe, "slope", x), np.where(x > 20, 1, exact / (1 + exact))) < 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(probe: ctypes.CDLL, dtype: type) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 20.5] * 2, dtype)
    expected = {
        "exp": [np.nan, np.inf, 0, 1, 1, np.inf, 0, np.exp(dtype(20.5))],
        "softplus": [np.nan, np.inf, 0, np.log(2), np.log(2), 1e30, 0, 20.5],
        "slope": [np.nan, 1, 0, 0.5, 0.5, 1, 0, 1],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(call(probe, name, x), np.array(values * 2, dtype), rtol=3 * np.finfo(dtype).eps, err_msg=name)


def test_transposition(probe: ctypes.CDLL) -> None:
    assert probe.transpose_float() == 0 and probe.transpose_double() == 0


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An empty cache, and a process that has not loaded the library."""
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path))
    monkeypatch.delenv(library.SWITCH, raising=False)
    library.native_library.cache_clear()
    yield monkeypatch
    library.native_library.cache_clear()


def test_without_a_compiler_torch_code_runs_and_says_so_once(fresh: pytest.MonkeyPatch) -> None:
    fresh.delenv("CXX", raising=False)
    fresh.setenv("PATH", "")
    tensors = inputs(Case(1, 1, 2, 1, 20))
    with pytest.warns(UserWarning, match=r"slower torch code is used.*no C\+\+ compiler was found"):
        scan.selective_scan(*tensors)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan.selective_scan(*tensors)  # type: ignore[arg-type]


def test_required_kernels_that_cannot_be_had_are_an_error(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("CXX", "/bin/false")
    fresh.setenv(library.SWITCH, "1")
    with pytest.raises(UserError, match="SEGC_NATIVE_OPS=1, but the native kernels cannot be used: /bin/false cannot compile"):
        library.native_library()


def test_switched_off_without_a_word(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(library.SWITCH, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.native_library() is None


def test_a_cache_that_cannot_be_written_is_named(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fresh.setenv("SEGC_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written to .*file.*Not a directory"):
        library.compiled()


def test_two_processes_compile_at_once(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both end with the same whole library, and nothing else is left behind. One small source stands for the kernels."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "answer.cpp").write_text('extern "C" __attribute__((visibility("default"))) int answer() { return 42; }')
    program = (
        "import ctypes, pathlib, sys; from segc.ops.native import library; library.FOLDER = pathlib.Path(sys.argv[1]);"
        "path = library.compiled(); assert ctypes.CDLL(str(path)).answer() == 42; print(path)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "sources")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0] and paths[0] == paths[1]
    assert list(Path(paths[0]).parent.iterdir()) == [Path(paths[0])]


def test_other_sources_or_flags_make_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = library.find_compiler()
    key = library._key(compiler)
    monkeypatch.setattr(library, "FLAGS", [*library.FLAGS, "-g"])
    assert library._key(compiler) != key


def test_the_call_is_laid_out_as_in_the_source() -> None:
    """Field names in order: a swapped pair would pass every test in which both are equal."""
    source = (library.FOLDER / "scan.cpp").read_text()
    body = source.partition("struct Call {")[2].partition("};")[0]
    lines = [line.partition("//")[0].replace("const void", "").replace("void", "").replace("int64_t", "") for line in body.splitlines()]
    names = [name.strip(" *;") for line in lines for name in line.split(",") if name.strip(" *;")]
    assert names == [field[0] for field in Call._fields_]


def test_openmp_is_torchs_own() -> None:
    """Two OpenMP runtimes in one process would each start threads; in a process of its own, where no other package brings one."""
    if library.native_library() is None or not Path("/proc/self/maps").exists():
        pytest.skip("needs the compiled kernels, on Linux")
    code = (
        "import torch; from segc.ops.native.library import native_library; native_library(); torch.ones(1 << 20).sum();"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'omp.so' in line})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 1, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not TARGETS["portable"], reason="other processors have one width of vectors")
@pytest.mark.parametrize("flags", [["-mno-avx512f"], TARGETS["portable"]], ids=["avx2", "sse"])
def test_scan_with_narrower_vectors(fresh: pytest.MonkeyPatch, tmp_path: Path, flags: list[str]) -> None:
    """The kernels an older processor gets, against the definition."""
    made = tmp_path / "scan.so"
    source = str(library.FOLDER / "scan.cpp")
    subprocess.run([library.find_compiler(), *library.FLAGS, *flags, "-shared", source, "-o", str(made)], check=True)
    fresh.setattr(native_scan, "native_library", lambda: ctypes.CDLL(str(made)))
    for dtype in TOLERANCE:
        for case in (Case(2, 2, 2, 2, 300, dtype=dtype), Case(1, 1, 2, 1, 37, dtype=dtype, reverse=True)):
            expected = gradients(reference.selective_scan, in_double(inputs(case)), case.flags)
            assert_near(gradients(scan.selective_scan, inputs(case), case.flags), expected, dtype)
        case = Case(1, 4, 2, 2, 21, dtype=dtype, height=9)
        expected = gradients(reference.cross_selective_scan, in_double(inputs(case)), case.flags)
        assert_near(gradients(scan.cross_selective_scan, inputs(case), case.flags), expected, dtype)
