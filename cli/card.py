"""``segc card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segc.cli.verb import Outcome, verb


@verb
def card(
    bundle: Annotated[Path, typer.Argument(help="A bundle with validation results.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file. Default: BUNDLE/README.md.")] = None,
    licence: Annotated[str, typer.Option("--license", help="Licence of the weights, as the Hub writes it: apache-2.0.")] = "unknown",
) -> Outcome:
    """Write the model card of a bundle in Hugging Face's format: what was measured, with metrics as metadata.

    Example: segc card bundle/ --license apache-2.0
    """
    from segc.validate.model_card import write_card

    path = write_card(bundle, output, licence)
    missing = "; its licence is unknown: --license NAME" if licence == "unknown" else ""
    return Outcome(f"{path}{missing}", {"file": str(path), "license": licence})
