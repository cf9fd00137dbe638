"""Finding nvcc and TensorRT's headers, and compiling the plugin library for many GPUs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segc.core.errors import UserError
from segc.ops.tensorrt import build
from segc.ops.tensorrt.resources import kernel_resources

VARIABLES = ("CUDA_HOME", "TENSORRT_INCLUDE_DIR", "TENSORRT_HOME")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No variable set and the cache in a folder of its own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path / "cache"))
    return monkeypatch


def fake_nvcc(folder: Path, architectures: str, compiles: bool = True) -> Path:
    """A script that answers as nvcc: lists GPUs, writes what it was asked for into the output file."""
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --list-gpu-arch) printf "{architectures}";; --version) echo "release 12.6";; *)\n'
        + ('for last; do :; done; echo "$@" > "$last";;\n' if compiles else "echo 'error: no such thing' >&2; exit 1;;\n")
        + "esac\n"
    )
    path.chmod(0o755)
    return path


def fake_headers(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "NvInferRuntime.h").write_text("")
    (folder / "NvInferVersion.h").write_text(version)
    return folder


TEN = "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 14\n#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n"
EIGHT = "#define NV_TENSORRT_MAJOR 8 //!< TensorRT major version.\n#define NV_TENSORRT_MINOR 6\n"


def test_nvcc_of_cuda_home_comes_first(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = fake_nvcc(tmp_path / "cuda", "compute_87\\n")
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert build.find_nvcc() == str(path)
    bare.setenv("CUDA_HOME", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=re.escape(f"CUDA_HOME is {tmp_path / 'empty'}")):
        build.find_nvcc()


def test_missing_nvcc_is_said_with_what_to_install(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"nvcc.*was not found.*CUDA toolkit"):
        build.find_nvcc()


def test_headers_are_looked_for_in_order(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = fake_headers(tmp_path / "home" / "include", TEN)
    named = fake_headers(tmp_path / "named", TEN)
    given = fake_headers(tmp_path / "given", TEN)
    usual = fake_headers(tmp_path / "usual", TEN)
    bare.setattr(build, "_usual_folders", lambda: iter([tmp_path / "nothing", usual]))
    assert build.tensorrt_headers() == usual
    bare.setenv("TENSORRT_HOME", str(home.parent))
    assert build.tensorrt_headers() == home
    bare.setenv("TENSORRT_INCLUDE_DIR", str(named))
    assert build.tensorrt_headers() == named
    assert build.tensorrt_headers(given) == given
    assert build.headers_version(given) == (10, 14)


def test_missing_and_old_headers_are_named(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setattr(build, "_usual_folders", lambda: iter([tmp_path]))
    with pytest.raises(UserError, match=r"NvInferRuntime\.h.*TENSORRT_INCLUDE_DIR"):
        build.tensorrt_headers()
    with pytest.raises(UserError, match=r"include_dir gives .*which holds no NvInferRuntime\.h"):
        build.tensorrt_headers(tmp_path)
    with pytest.raises(UserError, match=r"headers of TensorRT 8\.6; the plugin needs 10\.0"):
        build.tensorrt_headers(fake_headers(tmp_path / "old", EIGHT))


def test_an_older_nvcc_builds_what_it_knows_and_says_so(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda", "compute_75\\ncompute_80\\ncompute_86\\ncompute_87\\ncompute_89\\ncompute_90\\n")
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    headers = fake_headers(tmp_path / "headers", TEN)
    with pytest.warns(UserWarning, match="does not know sm_100, sm_110, sm_120"):
        library = build.build_plugin(include_dir=headers, output=tmp_path / "plugin.so")
    command = library.read_text()
    assert re.findall(r",code=(\w+)", command) == ["sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "compute_90"]
    assert f"-I{headers}" in command


def test_an_unknown_gpu_is_refused(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda", "compute_87\\ncompute_90\\n")
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    headers = fake_headers(tmp_path / "headers", TEN)
    for wanted in ([72, 87], []):
        with pytest.raises(UserError, match=re.escape(f"cannot compile for {wanted}; it knows [87, 90]")):
            build.build_plugin(wanted, headers)


def test_the_cache_knows_gpus_headers_and_sources_apart(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda", "compute_87\\ncompute_90\\n")
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    one, other = (fake_headers(tmp_path / name, TEN + f"// {name}\n") for name in ("one", "other"))
    first = build.build_plugin([87], one)
    stamp = first.stat().st_mtime_ns
    assert build.build_plugin([87], one) == first
    assert first.stat().st_mtime_ns == stamp
    assert len({first, build.build_plugin([87, 90], one), build.build_plugin([87], other)}) == 3
    sources = tmp_path / "sources"
    shutil.copytree(build.FOLDER, sources)
    (sources / "kernels" / "scan.cu").write_text("// changed")
    bare.setattr(build, "FOLDER", sources)
    assert build.build_plugin([87], one) != first


def test_the_compilers_message_is_passed_on(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda", "compute_87\\n", compiles=False)
    bare.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(UserError, match="cannot compile the TensorRT plugin: error: no such thing"):
        build.build_plugin([87], fake_headers(tmp_path / "headers", TEN))
    assert not list((tmp_path / "cache").rglob("*.so"))


def _tools() -> tuple[str, Path]:
    try:
        return build.find_nvcc(), build.tensorrt_headers()
    except UserError as error:
        pytest.skip(str(error))


def _cuobjdump(nvcc: str) -> str | None:
    triton = importlib.util.find_spec("triton")
    folders = [Path(nvcc).resolve().parent]
    if triton and triton.origin:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return shutil.which("cuobjdump") or next((found for folder in folders if (found := shutil.which(str(folder / "cuobjdump")))), None)


@pytest.mark.slow
def test_every_gpu_compiles_without_large_spills() -> None:
    """A spill is read and written once an instruction: some bytes are the compiler's choice, hundreds would be a design fault."""
    nvcc, _ = _tools()
    for arch in build.supported_architectures(nvcc):
        found = kernel_resources(nvcc, arch)
        assert len({item.kernel for item in found}) == len(found) > 20
        worst = max(found, key=lambda item: item.spill_store_bytes)
        assert worst.spill_store_bytes <= 128, worst
        assert all(0 < item.registers <= 255 for item in found)


@pytest.mark.slow
def test_the_whole_list_makes_one_library() -> None:
    nvcc, _ = _tools()
    library = build.build_plugin()
    tool = _cuobjdump(nvcc)
    if tool is None:
        pytest.skip("cuobjdump, which lists the code in a library, was found neither beside nvcc nor in triton")
    listed = subprocess.run([tool, "-lelf", "-lptx", str(library)], capture_output=True, text=True, check=True).stdout
    found = {int(number) for number in re.findall(r"\.sm_(\d+)\.cubin", listed)}
    assert found == set(build.supported_architectures(nvcc))
    assert f"sm_{max(found)}.ptx" in listed


@pytest.mark.slow
def test_cmake_builds_the_same_library(tmp_path: Path) -> None:
    _, headers = _tools()
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    where = ["-S", str(build.FOLDER), "-B", str(tmp_path), f"-DTENSORRT_INCLUDE_DIR={headers}", "-DCMAKE_CUDA_ARCHITECTURES=87"]
    subprocess.run(["cmake", *where, "-DCMAKE_BUILD_TYPE=Release"], check=True, capture_output=True, text=True)
    subprocess.run(["cmake", "--build", str(tmp_path), "-j", str(os.cpu_count())], check=True, capture_output=True, text=True)
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "libsegc_plugin.so")], capture_output=True, text=True, check=True
    )
    assert {"getCreators", "setLoggerFinder"} <= set(exported.stdout.split())
    assert "cudaLaunchKernel" not in exported.stdout
