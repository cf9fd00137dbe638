"""Dependencies point one way, and the runtime needs no training stack: the map of docs/architecture.md, held by a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import the rooms of the rows below its own, and itself.
LAYERS: list[set[str]] = [
    {"cli"},
    {"pipeline"},
    {"validate"},
    {"train", "compress"},
    {"export"},
    {"calib"},
    {"runtime"},
    {"models", "data", "configs"},
    {"ops"},
    {"core"},
]
HEAVY = {"torch", "mmseg", "mmengine", "mmcv", "nncf", "openvino", "onnx", "tensorrt", "safetensors"}


def _level(room: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


def _imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name.removeprefix("segc.") for name in found if name.startswith("segc.")]


ROOMS = sorted(set.union(*LAYERS))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        for name in _imports(path):
            other = name.split(".")[0]
            if other != room and _level(other) <= _level(room):
                wrong.append(f"{path.relative_to(ROOT)} imports segc.{name}")
    assert not wrong, "\n".join(wrong)


def test_light_verbs_import_no_training_stack() -> None:
    code = (
        "import sys, segc.cli.main, segc.runtime.bundle, segc.runtime.runner, segc.validate.metrics, segc.data.dataset;"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
