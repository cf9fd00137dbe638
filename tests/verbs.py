"""Verbs as a script calls them."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from segc.cli.main import app


def run_json(*words: object) -> tuple[int, dict[str, Any]]:
    """(exit code, what was told) of a verb with ``--json``."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout)
