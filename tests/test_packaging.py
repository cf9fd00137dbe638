"""What is in the tree is in the wheel, and what the wheel needs is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HIDDEN = {"tests", "build", "dist", "benchmarks"}


def test_every_package_is_listed() -> None:
    found = {
        ".".join(("segc", *path.parent.relative_to(ROOT).parts))
        for path in ROOT.rglob("__init__.py")
        if not HIDDEN & set(path.relative_to(ROOT).parts) and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_dependency_of_the_two_commands_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["train"] + extras["openvino"] + extras["dev"]
    names = {re.split(r"[<>=\[; ]", requirement)[0] for requirement in wanted}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} <= normal
