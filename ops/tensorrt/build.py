"""Compile the TensorRT plugin library with nvcc: needs a CUDA toolkit and TensorRT's headers, no TensorRT library and no GPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from segc.core.errors import UserError
from segc.core.files import atomic_path, cache_folder, explain_write_errors, write_json
from segc.ops.tensorrt.library import sidecar

FOLDER = Path(__file__).parent
# GPUs by compute capability: T4, A100, RTX 30, Orin, RTX 40, H100, B200, Thor, RTX 50.
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
OLDEST_TENSORRT = 10
# The static CUDA runtime's symbols stay inside: a process may hold another CUDA runtime, and calls must not end up there.
FLAGS = "-std=c++17 -O3 -shared -Xcompiler -fPIC,-fvisibility=hidden -Xlinker --exclude-libs,ALL -Xfatbin -compress-all".split()


def build_plugin(arch: Sequence[int] | None = None, include_dir: Path | str | None = None, output: Path | str | None = None) -> Path:
    """Compile the plugin library for these GPUs, and PTX of the newest of them for later GPUs; cached by content.

    Args:
        arch: compute capabilities without the dot (87 is Orin); None takes all of ``ARCHITECTURES`` that this nvcc knows, and warns of
            those it does not.
        include_dir: folder of NvInferRuntime.h; None looks in the places of ``tensorrt_headers``.
        output: where the library is copied to; None leaves it in the cache.

    Returns:
        Path of the shared library: give it to ``IPluginRegistry.load_library`` or ``trtexec --dynamicPlugins``.

    Raises:
        UserError: no nvcc, no headers of TensorRT 10 or later, a GPU this nvcc does not know, or the compiler's own message.
    """
    nvcc = find_nvcc()
    headers = tensorrt_headers(include_dir)
    wanted = supported_architectures(nvcc) if arch is None else _checked(arch, nvcc)
    library = cache_folder() / "tensorrt" / f"segc_plugin_{_key(nvcc, headers, wanted)}.so"
    if not library.exists():
        _compile(nvcc, headers, wanted, library)
    if not sidecar(library).exists():
        version = ".".join(map(str, headers_version(headers)))
        write_json(sidecar(library), {"arch": list(wanted), "tensorrt": version, "nvcc": nvcc})
    if output is None:
        return library
    for source, target in ((sidecar(library), sidecar(Path(output))), (library, Path(output))):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return Path(output)


def find_nvcc() -> str:
    """Path of nvcc: of ``CUDA_HOME``, else on the PATH, else in /usr/local/cuda.

    Raises:
        UserError: there is none, or CUDA_HOME is set and has none.
    """
    home = os.environ.get("CUDA_HOME")
    if home:
        named = Path(home) / "bin" / "nvcc"
        if not named.is_file():
            raise UserError(f"CUDA_HOME is {home}, but {named} does not exist.", "Name the folder of a CUDA toolkit in CUDA_HOME.")
        return str(named)
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        raise UserError(
            "nvcc, which compiles the TensorRT plugin, was not found on the PATH nor in /usr/local/cuda.",
            "Install the CUDA toolkit (JetPack: apt-get install cuda-toolkit-12-6), or name its folder in CUDA_HOME.",
        )
    return found


def tensorrt_headers(include_dir: Path | str | None = None) -> Path:
    """Folder of TensorRT's headers, version 10 or later.

    The first of: the argument, ``TENSORRT_INCLUDE_DIR``, ``TENSORRT_HOME/include`` (tar archive), /usr/include/<machine>-linux-gnu and
    /usr/include (JetPack and deb packages), an installed Python package that carries them (tensorrt, kernel-lens).

    Raises:
        UserError: none has NvInferRuntime.h, a folder named explicitly lacks it, or its version is below 10.
    """
    named = _named_folder(include_dir)
    folder = named or next((item for item in _usual_folders() if _has_headers(item)), None)
    if folder is None:
        raise UserError(
            "NvInferRuntime.h, TensorRT's header, was not found in the usual places.",
            "Name its folder in TENSORRT_INCLUDE_DIR (apt-get install libnvinfer-headers-dev; or include/ of github.com/NVIDIA/TensorRT).",
        )
    version = headers_version(folder)
    if version[0] < OLDEST_TENSORRT:
        raise UserError(
            f"{folder} holds the headers of TensorRT {version[0]}.{version[1]}; the plugin needs 10.0 or later.",
            "Name the folder of newer headers in TENSORRT_INCLUDE_DIR.",
        )
    return folder


def headers_version(folder: Path) -> tuple[int, int]:
    """Major and minor version of the headers in ``folder``; (0, 0) where NvInferVersion.h does not tell."""
    path = folder / "NvInferVersion.h"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = [re.search(rf"define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE)\s+(\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (int(match.group(1)) if match else 0 for match in found)
    return major, minor


def known_architectures(nvcc: str) -> list[int]:
    """Compute capabilities that ``nvcc`` compiles for."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    return sorted(int(number) for number in re.findall(r"compute_(\d+)\b", listed))


def supported_architectures(nvcc: str) -> list[int]:
    """Those of ``ARCHITECTURES`` that ``nvcc`` knows; warns of the others."""
    known = known_architectures(nvcc)
    missing = [arch for arch in ARCHITECTURES if arch not in known]
    if missing:
        names = ", ".join(f"sm_{arch}" for arch in missing)
        warnings.warn(f"{nvcc} does not know {names}: the TensorRT plugin has no code of its own for these GPUs.", stacklevel=3)
    return [arch for arch in ARCHITECTURES if arch in known]


def sources() -> list[Path]:
    """The translation units, in order."""
    return sorted([*(FOLDER / "kernels").glob("*.cu"), *(FOLDER / "plugin").glob("*.cpp")])


def _checked(arch: Sequence[int], nvcc: str) -> list[int]:
    known = known_architectures(nvcc)
    unknown = sorted(set(arch) - set(known))
    if unknown or not arch:
        raise UserError(
            f"{nvcc} cannot compile for {list(arch)}; it knows {known}.", "Name GPUs out of these, or use another CUDA toolkit."
        )
    return sorted(set(arch))


def _named_folder(include_dir: Path | str | None) -> Path | None:
    """The folder that was named explicitly, with headers in it."""
    home = os.environ.get("TENSORRT_HOME")
    named = {
        "include_dir": include_dir,
        "TENSORRT_INCLUDE_DIR": os.environ.get("TENSORRT_INCLUDE_DIR"),
        "TENSORRT_HOME": Path(home) / "include" if home else None,
    }
    for name, folder in named.items():
        if folder:
            if not _has_headers(Path(folder)):
                raise UserError(
                    f"{name} gives {folder}, which holds no NvInferRuntime.h.", "Name the folder that holds TensorRT's headers."
                )
            return Path(folder)
    return None


def _usual_folders() -> Iterator[Path]:
    yield Path(f"/usr/include/{platform.machine()}-linux-gnu")
    yield Path("/usr/include")
    for package in ("tensorrt", "tensorrt_libs", "kernel_lens"):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            yield Path(root) / "include"
            yield Path(root) / "include" / "tensorrt"


def _has_headers(folder: Path) -> bool:
    return (folder / "NvInferRuntime.h").is_file()


def _key(nvcc: str, headers: Path, arch: Sequence[int]) -> str:
    digest = hashlib.sha256()
    files = [*FOLDER.glob("kernels/*.*"), *FOLDER.glob("plugin/*.*"), *headers.glob("NvInfer*.h")]
    for path in sorted(files, key=lambda item: item.name):
        digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\n".join([version, platform.machine(), *FLAGS, *map(str, arch)]).encode())
    return digest.hexdigest()[:16]


def _code_flags(arch: Sequence[int]) -> list[str]:
    machine = [f"-gencode=arch=compute_{item},code=sm_{item}" for item in arch]
    return [*machine, f"-gencode=arch=compute_{arch[-1]},code=compute_{arch[-1]}"]


def _compile(nvcc: str, headers: Path, arch: Sequence[int], library: Path) -> None:
    """Compile to a temporary name and rename: processes that start together each end with a whole file."""
    threads = ["--threads", str(min(os.cpu_count() or 1, 8))]
    with explain_write_errors(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            command = [nvcc, *FLAGS, *threads, *_code_flags(arch), f"-I{FOLDER / 'kernels'}", f"-I{headers}"]
            done = subprocess.run([*command, *map(str, sources()), "-o", str(made)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"{nvcc} cannot compile the TensorRT plugin: {(done.stderr or done.stdout).strip()[:800]}")
            made.replace(library)
