"""Which labelled dataset an artefact is validated on when the user names none: the one it was exported with."""

from __future__ import annotations

from pathlib import Path

from segc.core.errors import UserError
from segc.runtime.bundle import read_manifest
from segc.runtime.target import parse_target


def data_of(target: str, given: Path | None) -> tuple[Path, str | None, str]:
    """(root, layout, split) of the dataset to use; layout None means detect it.

    Raises:
        UserError: none was given, and the artefact names none.
    """
    if given is not None:
        return given, None, "val"
    found = parse_target(target)
    data = read_manifest(found.path).provenance.get("data") if found.kind == "bundle" else None
    if not data:
        raise UserError(f"{target} names no dataset to validate on.", "Give one: --data ROOT [--layout NAME] [--split val]")
    return Path(data["root"]), data.get("layout"), data.get("split", "val")
