"""Progress yields every item once, in order, on stderr only."""

from __future__ import annotations

import pytest

from segc.core import progress


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    assert list(progress.track([1, 2, 3], "work")) == [1, 2, 3]
    assert list(progress.track(iter("ab"), "endless")) == ["a", "b"]
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0].startswith("work: 1/3, ") and lines[3:] == ["endless: 1", "endless: 2"]


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(progress.track(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
