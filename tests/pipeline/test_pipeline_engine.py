"""The engine on fake stages: skip, re-run exactly what depends on a change, resume after kill -9 and ^C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segc.core.errors import UserError
from segc.pipeline.engine import Hashes, Stage, run_stages

# a and b read the folder's sources, c reads what a and b wrote, d reads what c wrote: a diamond with a tail.
NEEDS = {"a": ["in_a"], "b": ["in_b"], "c": ["a.out", "b.out"], "d": ["c.out"]}


def make(folder: Path, log: list[str], version: int = 1) -> list[Stage]:
    hashes = Hashes(folder / "hashes.json")

    def stage(name: str, needs: list[str]) -> Stage:
        def run(resume: bool) -> None:
            log.append(f"{name}+" if resume else name)
            (folder / f"{name}.out").write_text("|".join((folder / need).read_text() for need in needs))

        return Stage(
            name,
            run,
            lambda: [hashes.file(folder / need) for need in needs],
            lambda: {"out": hashes.file(folder / f"{name}.out")},
            version if name == "c" else 1,
        )

    return [stage(name, needs) for name, needs in NEEDS.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in_a").write_text("1")
    (tmp_path / "in_b").write_text("2")
    return tmp_path


def run(folder: Path, version: int = 1, **options: object) -> list[str]:
    log: list[str] = []
    run_stages(make(folder, log, version), folder / "state.json", tell=lambda _: None, **options)  # type: ignore[arg-type]
    return log


def test_second_run_skips_everything(folder: Path) -> None:
    assert run(folder) == ["a", "b", "c", "d"]
    lines: list[str] = []
    done = run_stages(make(folder, []), folder / "state.json", tell=lines.append)
    assert {each.status for each in done} == {"skipped"}
    assert lines[0] == "a: unchanged, skipped"


def test_a_changed_input_reruns_what_depends_on_it(folder: Path) -> None:
    run(folder)
    (folder / "in_b").write_text("changed")
    assert run(folder) == ["b", "c", "d"]


def test_equal_output_stops_the_chain(folder: Path) -> None:
    """Content decides, not time: a file that is written again with the same content changes nothing."""
    run(folder)
    (folder / "in_a").write_text("1")
    assert run(folder) == []


@pytest.mark.parametrize(("lost", "again"), [("a.out", ["a"]), ("c.out", ["c"]), ("d.out", ["d"])])
def test_a_lost_or_altered_output_is_made_again(folder: Path, lost: str, again: list[str]) -> None:
    run(folder)
    (folder / lost).unlink()
    assert run(folder) == again
    (folder / lost).write_text("altered")
    assert run(folder) == again


def test_a_new_version_of_a_stage_reruns_it(folder: Path) -> None:
    run(folder)
    assert run(folder, version=2) == ["c"]


def test_until_from_and_fresh(folder: Path) -> None:
    assert run(folder, until="b") == ["a", "b"]
    assert run(folder) == ["c", "d"]
    assert run(folder, start="c") == ["c", "d"]
    assert run(folder, fresh=True, until="a") == ["a"]
    with pytest.raises(UserError, match="--until 'bb' is no stage"):
        run(folder, until="bb")


def test_damaged_state_is_named(folder: Path) -> None:
    run(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json"):
        run(folder)


def test_a_failed_stage_is_told_to_resume_only_for_the_same_inputs(folder: Path) -> None:
    log: list[str] = []
    a, b, *rest = make(folder, log)

    def fail(resume: bool) -> None:
        raise OSError("power")

    with pytest.raises(OSError, match="power"):
        run_stages([a, Stage("b", fail, b.inputs, b.outputs), *rest], folder / "state.json", tell=lambda _: None)
    assert run(folder, until="b") == ["b+"], "the same key goes on"
    with pytest.raises(OSError, match="power"):
        run_stages([a, Stage("b", fail, b.inputs, b.outputs)], folder / "state.json", start="b", tell=lambda _: None)
    (folder / "in_b").write_text("other")
    assert run(folder, until="b") == ["b"], "another key starts anew"


def test_hashes_see_a_change_of_equal_size_within_the_clock_tick(tmp_path: Path) -> None:
    hashes, path = Hashes(tmp_path / "hashes.json"), tmp_path / "x"
    path.write_text("aaaa")
    before, stat = hashes.file(path), path.stat()
    path.write_text("bbbb")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hashes.file(path) != before
    assert hashes.file(tmp_path / "missing") is None


SLOW = """
import sys, time
from pathlib import Path
from segc.cli.verb import Outcome, verb
from segc.pipeline.engine import Stage, run_stages
import typer
folder = Path(sys.argv[1]); slow = float(sys.argv[2]); sys.argv = ["segc", "run", "fake"]

def stage(name, seconds):
    def run(resume):
        with (folder / "log").open("a") as log:
            print(name + ("+" if resume else ""), file=log, flush=True)
        time.sleep(seconds)
        (folder / name).write_text(name)
    return Stage(name, run, lambda: name, lambda: {"out": (folder / name).read_text() if (folder / name).exists() else None})

@verb
def fake(recipe: str) -> Outcome:
    run_stages([stage("one", 0), stage("two", slow), stage("three", 0)], folder / "state.json")
    return Outcome("done")

app = typer.Typer(); app.command("run")(fake); app.command("other")(fake)
app()
"""


def _start(folder: Path, slow: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(slow)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_in_a_stage_then_resumed(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    process = _start(tmp_path, 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "log").exists() or "two" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline, "the slow stage was not reached"
        time.sleep(0.02)
    process.send_signal(sent)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in told
    state = json.loads((tmp_path / "state.json").read_text())
    assert list(state["finished"]) == ["one"] and list(state["begun"]) == ["two"]
    again = _start(tmp_path, 0)
    assert again.wait(30) == 0
    again.communicate()
    assert (tmp_path / "log").read_text().split() == ["one", "two", "two+", "three"]
