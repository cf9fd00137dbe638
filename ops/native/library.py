"""Compile the C++ kernels beside this file into one shared library, cached by their content, and load it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from segc.core.errors import UserError
from segc.core.files import cache_folder

FOLDER = Path(__file__).parent
NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
# No -ffast-math: NaN and infinity have to spread as in the definition, and it would switch denormals off in the whole process.
FLAGS = f"-std=c++17 -O3 {NATIVE} -fPIC -fopenmp -fno-math-errno -fno-trapping-math -fvisibility=hidden".split()
SWITCH = "SEGC_NATIVE_OPS"


@cache
def native_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had: said once, as a warning with the reason.

    ``SEGC_NATIVE_OPS=0`` switches them off without a warning; ``=1`` makes a failure an error.

    Raises:
        UserError: they were required by ``SEGC_NATIVE_OPS=1`` and cannot be compiled.
    """
    wish = os.environ.get(SWITCH, "")
    if wish == "0":
        return None
    try:
        return ctypes.CDLL(str(compiled()))
    except (UserError, OSError) as error:
        if wish == "1":
            raise UserError(f"{SWITCH}=1, but the native kernels cannot be used: {error}") from error
        warnings.warn(f"the slower torch code is used for segc.ops on the CPU: {error}", stacklevel=2)
        return None


def compiled() -> Path:
    """Path of the shared library; compiled when no copy for these sources, this compiler and this processor is in the cache.

    Raises:
        UserError: no C++ compiler, or it refused the sources.
    """
    compiler = find_compiler()
    target = cache_folder() / "ops" / f"segc_ops_{_key(compiler)}.so"
    if not target.exists():
        _compile(compiler, target)
    return target


def find_compiler() -> str:
    """The C++ compiler: ``CXX`` where it is set, else c++, g++ or clang++.

    Raises:
        UserError: there is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise UserError("no C++ compiler was found.", "apt-get install g++, or name one in CXX.")


def sources() -> list[Path]:
    """The translation units, in order."""
    return sorted(FOLDER.glob("*.cpp"))


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest.update("\n".join([version, *FLAGS, platform.machine(), _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The instruction sets of this processor: -march=native code of another one may not run here."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _compile(compiler: str, target: Path) -> None:
    """Compile under a temporary name and rename: processes that start together each end with a whole file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            objects = [Path(folder) / f"{source.stem}.o" for source in sources()]
            _run_all([compiler, *FLAGS, "-c", str(source), "-o", str(made)] for source, made in zip(sources(), objects, strict=True))
            made = Path(folder) / target.name
            _run_all([[compiler, *FLAGS, "-shared", *map(str, objects), "-o", str(made)]])
            made.replace(target)
    except OSError as error:
        raise UserError(
            f"the compiled kernels cannot be written to {target.parent}: {error.strerror}.", "Name a folder in SEGC_CACHE."
        ) from error


def _run_all(commands: Iterable[list[str]]) -> None:
    """Run compilers side by side.

    Raises:
        UserError: one of them failed.
    """
    running = [(command[0], subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) for command in commands]
    said = [(compiler, process.communicate()[1], process.returncode) for compiler, process in running]
    for compiler, errors, code in said:
        if code:
            raise UserError(f"{compiler} cannot compile the kernels: {errors.strip()[:500]}")
