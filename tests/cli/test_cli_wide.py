"""What holds for every verb: a light start, help with an example, one JSON object, exit codes, completion, suggestions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segc.cli.main import app
from segc.cli.verb import Outcome, verb
from segc.core.errors import CheckFailed, UserError

ROOT = Path(__file__).parents[2]
HEAVY = "torch mmseg mmengine mmcv onnx onnxruntime openvino nncf cv2 safetensors".split()


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    else:
        for name, child in children.items():
            yield from _leaves(child, (*path, name))


VERBS = dict(_leaves(typer.main.get_command(app)))


def segc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "segc.cli.main", *arguments], capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    """The start-up bound of 0.5 s is held by what is imported; a wall-clock bound would fail on a busy machine."""
    code = (
        "import sys; sys.argv = ['segc', '--help']\n"
        "from segc.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage" in done.stdout


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help_has_an_example_that_names_the_verb(path: tuple[str, ...]) -> None:
    help_text = VERBS[path].help or ""
    assert f"Example: segc {' '.join(path)}" in help_text
    assert help_text.splitlines()[0].endswith((".", ":")), "the first line is a sentence"


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_option_has_a_help_text_and_every_verb_json(path: tuple[str, ...]) -> None:
    parameters = VERBS[path].params
    assert [each.name for each in parameters if not getattr(each, "help", None)] == []
    assert "--json" in {option for each in parameters for option in each.opts}


def _one_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict) and {"verdict", "command", "seconds"} <= set(found)
    return found


def test_json_is_one_object_when_all_is_well() -> None:
    done = segc("run", "segc::recipes/quickstart.yaml", "--show", "--json")
    found = _one_object(done)
    assert done.returncode == 0 and found["verdict"] == "passed"
    assert found["data"]["recipe"]["name"] == "quickstart"
    assert found["command"] == "segc run segc::recipes/quickstart.yaml --show --json"


@pytest.mark.parametrize(
    "arguments",
    [("run", "none.yaml"), ("inspect", "none.onnx"), ("inspect", "none"), ("export", "none.py", "-o", "x")],
    ids=" ".join,
)
def test_json_is_one_object_for_a_mistake(arguments: tuple[str, ...]) -> None:
    done = segc(*arguments, "--json")
    found = _one_object(done)
    assert done.returncode == 2 and found["verdict"] == "error"
    assert "none" in found["error"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(("exprt",), "export"), (("run", "x.yaml", "--untl", "train"), "--until"), (("inspekt", "x"), "inspect")],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_typing_mistakes_get_the_nearest_name(arguments: tuple[str, ...], suggestion: str) -> None:
    done = segc(*arguments)
    assert done.returncode == 2
    assert suggestion in done.stderr.split("No such")[1]


def test_the_shell_completes_verbs() -> None:
    command = Path(sys.executable).parent / "segc"
    asked = {"_SEGC_COMPLETE": "complete_bash", "COMP_WORDS": "segc exp", "COMP_CWORD": "1"}
    done = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == ["export"]


def _fake(error: BaseException | None, passed: bool = True) -> typer.Typer:
    @verb
    def fake() -> Outcome:
        if error:
            raise error
        return Outcome("the summary", {"x": 1}, passed=passed)

    own = typer.Typer()
    own.command("fake")(fake)
    return own


@pytest.mark.parametrize(
    ("error", "passed", "code", "verdict"),
    [
        (None, True, 0, "passed"),
        (None, False, 1, "failed"),
        (CheckFailed("no"), True, 1, "failed"),
        (UserError("wrong", "do this"), True, 2, "error"),
        (KeyboardInterrupt(), True, 130, "interrupted"),
    ],
    ids=["passed", "verdict-no", "check-failed", "user-error", "interrupt"],
)
def test_exit_codes(error: BaseException | None, passed: bool, code: int, verdict: str) -> None:
    plain, machine = CliRunner().invoke(_fake(error, passed), []), CliRunner().invoke(_fake(error, passed), ["--json"])
    assert plain.exit_code == machine.exit_code == code
    assert json.loads(machine.stdout)["verdict"] == verdict
    assert verdict in (plain.stdout + plain.stderr).lower()


def test_verdict_line_has_the_command_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["segc", "fake", "a b"])
    last = CliRunner().invoke(_fake(None), []).stdout.strip().splitlines()[-1]
    assert last.startswith("segc fake 'a b' | ") and last.endswith(" s")


def test_the_reference_page_is_current(tmp_path: Path) -> None:
    make = ["typer", "segc.cli.main", "utils", "docs", "--name", "segc", "--output"]
    subprocess.run([sys.executable, "-m", *make, str(tmp_path / "cli.md")], check=True, capture_output=True)
    same = (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text()
    assert same, f"make it again: python -m {' '.join(make)} docs/cli.md"
