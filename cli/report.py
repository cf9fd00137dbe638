"""``segc report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segc.cli.verb import Outcome, verb


@verb
def report(bundle: Annotated[Path, typer.Argument(help="A bundle with validation results.")]) -> Outcome:
    """Write the accuracy-drop report of a bundle: one offline HTML file, Markdown and JSON twins.

    Example: segc report bundle/
    """
    from segc.core.files import read_json
    from segc.validate.report import write_report

    path = write_report(bundle)
    data = read_json(path.with_suffix(".json"))
    files = {kind: str(path.with_suffix(f".{kind}")) for kind in ("html", "md", "json")}
    return Outcome(f"{path}: {data['verdict']}", {"files": files, "verdict": data["verdict"]})
