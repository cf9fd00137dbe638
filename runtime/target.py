"""``PATH[@PRECISION]``: how every verb names the thing to run, e.g. ``bundle``, ``bundle@int8``, ``model.onnx``, ``best.pth``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.runtime.bundle import MANIFEST, graph_precision, is_bundle, read_manifest

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Target:
    """A runnable artefact: ``kind`` is ``bundle``, ``onnx`` or ``checkpoint``; ``precision`` only for bundles."""

    path: Path
    kind: str
    precision: str | None = None

    def __str__(self) -> str:
        return f"{self.path}@{self.precision}" if self.precision else str(self.path)


def parse_target(text: str) -> Target:
    """Parse ``PATH[@PRECISION]``.

    Raises:
        UserError: nothing lies at the path, or it is not a checkpoint, an ONNX file or a bundle.
    """
    path, precision = _split(text)
    if not path.exists():
        raise UserError(f"{path} does not exist.", "Give a checkpoint (.pth, .safetensors), an .onnx file or a bundle folder.")
    if is_bundle(path):
        return Target(path, "bundle", precision)
    if precision:
        raise UserError(f"'@{precision}' picks a graph of a bundle, but {path} is not a bundle (no {MANIFEST} in it).")
    if path.suffix == ".onnx":
        return Target(path, "onnx")
    if path.suffix in CHECKPOINT_SUFFIXES:
        return Target(path, "checkpoint")
    raise UserError(f"{path} is neither a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}), an .onnx file nor a bundle (no {MANIFEST}).")


def content_hash(target: Target, precision: str) -> str:
    """SHA-256 of the file that a result of this target and precision was measured on; of an engine, the graph it was built from."""
    if target.kind != "bundle":
        return sha256_file(target.path)
    manifest = read_manifest(target.path)
    return manifest.graphs[graph_precision(manifest, precision)].sha256


def _split(text: str) -> tuple[Path, str | None]:
    whole = Path(text)
    if "@" not in whole.name or whole.exists():
        return whole, None
    head, _, precision = text.rpartition("@")
    return Path(head), precision or None
