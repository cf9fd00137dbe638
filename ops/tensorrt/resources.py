"""What ptxas says a kernel takes of a GPU: registers a thread, and bytes spilled to memory for want of registers."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from segc.core.errors import UserError
from segc.ops.tensorrt.build import FOLDER

_ENTRY = re.compile(r"Compiling entry function '(\S+)'")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class KernelResources:
    """One kernel on one GPU; bytes are those of a thread, as ptxas counts instructions, not of a run."""

    kernel: str
    arch: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


def kernel_resources(nvcc: str, arch: int) -> list[KernelResources]:
    """Compile the kernels for the GPU ``arch`` (87 is Orin) and read ptxas' report; nothing is kept.

    Raises:
        UserError: the compiler's own message.
    """
    found: list[KernelResources] = []
    for source in sorted((FOLDER / "kernels").glob("*.cu")):
        found += _parse(_report(nvcc, arch, source), arch)
    return found


def _report(nvcc: str, arch: int, source: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", str(source), "-o", f"{folder}/kernels.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{nvcc} cannot compile {source.name} for sm_{arch}: {done.stderr.strip()[:500]}")
    return done.stderr


def _parse(report: str, arch: int) -> list[KernelResources]:
    found, name, spill = [], "", (0, 0, 0)
    for line in report.splitlines():
        if match := _ENTRY.search(line):
            name = match.group(1)
        elif match := _SPILL.search(line):
            spill = (int(match.group(1)), int(match.group(2)), int(match.group(3)))
        elif match := _REGISTERS.search(line):
            found.append(KernelResources(_plain_name(name), arch, int(match.group(1)), *spill))
    return found


def _plain_name(mangled: str) -> str:
    """``lanes_kernel<float, 1>`` where c++filt is installed, else the mangled name."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None:
        return mangled
    plain = subprocess.run([tool, mangled], capture_output=True, text=True, check=False).stdout.strip()
    return plain.removeprefix("void ").partition("(")[0].replace("segc::", "")
