"""What a verb is given to load: a config with weights, or a checkpoint that carries its config."""

from __future__ import annotations

from pathlib import Path

from segc.core.errors import UserError
from segc.runtime.target import CHECKPOINT_SUFFIXES


def config_and_weights(source: str, weights: Path | None) -> tuple[str | None, Path | None]:
    """(config, checkpoint) of a verb's source and its ``--weights``; no config where the source is a checkpoint.

    Raises:
        UserError: both name a checkpoint.
    """
    if Path(source).suffix not in CHECKPOINT_SUFFIXES:
        return source, weights
    if weights is not None:
        raise UserError(f"{source} is a checkpoint, and --weights {weights} names another one.", "Give a config with --weights.")
    return None, Path(source)
