"""``segc doctor``."""

from __future__ import annotations

import json as jsonlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError

_TIMEOUT_S = 20
_CORE = "jinja2 numpy onnxruntime opencv-python-headless psutil pydantic pyyaml rich typer".split()
_TWINS = {
    "onnxruntime": ["onnxruntime-gpu"],
    "opencv-python-headless": ["opencv-python", "opencv-contrib-python"],
    "tensorrt-rtx": ["tensorrt-rtx-cu13-bindings"],
}
_TRAIN = "torch onedl-mmengine onedl-mmcv onedl-mmsegmentation safetensors".split()
_EXPORT = [*_TRAIN, "onnx", "onnxscript", "onnxslim"]
_PROBES = {
    "onnxruntime": "import json, onnxruntime as o; print(json.dumps(o.get_available_providers()))",
    "openvino": "import json, openvino as o; print(json.dumps(o.Core().available_devices))",
    "video": "import json, cv2; print(json.dumps([n.split()[-1] for n in cv2.getBuildInformation().splitlines() if 'FFMPEG:' in n]))",
    "gpu": "nvidia-smi",
}


@dataclass(frozen=True)
class Line:
    """One line of the table: ``ok`` says whether it is there, ``fix`` what to type when it is not; ``core`` ones must be there."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    core: bool = False


@verb
def doctor() -> Outcome:
    """Say what this machine can do, and the command that fixes what it cannot.

    Example: segc doctor
    """
    lines = examine()
    able = abilities(lines)
    broken = [line.name for line in lines if line.core and not line.ok]
    summary = f"broken: {', '.join(broken)}" if broken else f"this machine can {', '.join(name for name, can in able.items() if can)}"
    return Outcome(summary, {"lines": [asdict(line) for line in lines], "can": able}, [_table(lines)], passed=not broken)


def examine() -> list[Line]:
    """Look at the machine; heavy packages are looked up, not imported."""
    with ThreadPoolExecutor() as pool:
        probes = dict(zip(_PROBES, pool.map(_probe, _PROBES.values()), strict=True))
    core = [_package(name, f"pip install {name}", core=True) for name in _CORE if name != "onnxruntime"]
    extras = [_package(name, "pip install 'segc[train]'") for name in [*_EXPORT, "nncf"]]
    gpu = [_package(name, f"pip install 'segc[{extra}]'") for name, extra in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx"))]
    tools = [*_compilers(), _gpu(probes["gpu"]), _video(probes["video"]), _data()]
    return [*_machine(), *core, *_backends(probes), *extras, *gpu, *tools]


def abilities(lines: list[Line]) -> dict[str, bool]:
    """What the machine can do: one word or sentence a verb -> yes or no."""
    ok = {line.name: line.ok for line in lines}
    return {
        "train": all(ok[name] for name in _TRAIN),
        "export": all(ok[name] for name in _EXPORT),
        "quantize": all(ok[name] for name in _EXPORT),
        "run on onnxruntime": ok["onnxruntime"],
        "run on openvino": ok["openvino"],
        "run on torch": all(ok[name] for name in _TRAIN),
        "read video": ok["video"],
    }


def _probe(code: str) -> Any:
    """What a small program in a process of its own says, as JSON; None when it fails."""
    command = [sys.executable, "-c", code]
    if code == "nvidia-smi":
        if shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return done.stdout.strip().splitlines() if command[0] == "nvidia-smi" else jsonlib.loads(done.stdout.splitlines()[-1])


def _machine() -> list[Line]:
    import psutil

    memory = psutil.virtual_memory()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    old = sys.version_info < (3, 11)
    return [
        Line("python", not old, sys.version.split()[0], "install Python 3.11 or newer", core=True),
        Line("cores", True, str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
        Line(
            "memory",
            memory.total > 4 * 2**30,
            f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free",
            "4 GiB or more to train",
        ),
        Line("disk", free > 2, f"{free:.1f} GiB free here", "free some space: a run takes up to 2 GiB"),
    ]


def _version(name: str) -> str | None:
    for candidate in [name, *_TWINS.get(name, [])]:
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _package(name: str, fix: str, core: bool = False) -> Line:
    version = _version(name)
    return Line(name, version is not None, version or "missing", fix, core)


def _backends(probes: dict[str, Any]) -> list[Line]:
    return [
        _probed("onnxruntime", probes["onnxruntime"], "pip install onnxruntime", core=True),
        _probed("openvino", probes["openvino"], "pip install 'segc[openvino]'"),
    ]


def _probed(name: str, found: list[str] | None, fix: str, core: bool = False) -> Line:
    """A package that is there must also import."""
    version = _version(name)
    if version is None:
        return Line(name, False, "missing", fix, core)
    if not found:
        return Line(name, False, f"{version}, does not import", f"pip install --force-reinstall {name}", core)
    return Line(name, True, f"{version}: {', '.join(found)}", fix, core)


def _compilers() -> list[Line]:
    """What compiles the operators of ``segc.ops``: the CPU kernels on first use, the TensorRT plugin on demand."""
    from segc.ops.native.library import find_compiler
    from segc.ops.tensorrt.build import find_nvcc

    lines = []
    for name, find, without in (("C++ compiler", find_compiler, "slower torch code"), ("nvcc", find_nvcc, "no TensorRT plugin")):
        try:
            lines.append(Line(name, True, find()))
        except UserError as error:
            lines.append(Line(name, False, f"missing: {without}", error.fix))
    return lines


def _gpu(found: list[str] | None) -> Line:
    return Line("GPU", bool(found), "; ".join(found or []) or "none (nvidia-smi)", "an NVIDIA driver, where there is a GPU")


def _video(found: list[str] | None) -> Line:
    able = found == ["YES"]
    return Line("video", able, "OpenCV with FFmpeg" if able else "OpenCV without FFmpeg", "pip install opencv-python-headless")


def _data() -> Line:
    from segc.data.embedded import camvid_root

    root = camvid_root()
    return Line(
        "SEGC_DATA", root is not None, str(root or "no CamVid images: the rendered street scene is used"), "export SEGC_DATA=FOLDER"
    )


def _table(lines: list[Line]) -> Any:
    from rich.table import Table

    table = Table(title="This machine")
    for name in ("what", "state", "found", "fix"):
        table.add_column(name, overflow="fold")
    for line in lines:
        state = "[green]ok[/]" if line.ok else "[red]missing[/]" if line.core else "[yellow]missing[/]"
        table.add_row(line.name, state, line.found, "" if line.ok else line.fix.replace("[", "\\["))
    return table
