"""An artefact as it is validated: which graph, on which backend, in which versions. What its counts are kept under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.core.files import sha256_file, sha256_json
from segc.core.rows import environment
from segc.runtime.bundle import graph_path, graph_precision, read_manifest, result_file
from segc.runtime.runner import choose
from segc.runtime.target import parse_target


@dataclass(frozen=True)
class Side:
    """The artefact that is validated, or the one it is compared with.

    text: as the user named it. name: its file or folder, with the precision of a bundle's graph. sha256: of the graph or the
    checkpoint. engines: SHA-256 of the bundle's engines of that precision, one of which may be what runs.
    """

    text: str
    name: str
    precision: str
    backend: str
    sha256: str
    engines: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, backend: str | None = None) -> Side:
        """What ``segc.runtime.runner.open_runner`` would open, without opening it.

        Raises:
            UserError: nothing to run lies there, or the bundle has no such graph as it was exported.
        """
        found = parse_target(text)
        if found.kind == "checkpoint":
            return cls(text, found.path.name, "fp32", backend or "torch", sha256_file(found.path))
        if found.kind == "onnx":
            return cls(text, found.path.name, found.path.stem, backend or "onnxruntime", sha256_file(found.path))
        manifest = read_manifest(found.path)
        precision, chosen = choose(manifest, found.precision, backend)
        source = graph_precision(manifest, precision)
        graph_path(found.path, manifest, source)  # compares the file with the manifest's hash
        sha256 = manifest.graphs[source].sha256
        engines = tuple(engine.sha256 for engine in manifest.engines if engine.precision == precision)
        return cls(text, f"{found.path.name}@{precision}", precision, chosen, sha256, engines)

    @property
    def key(self) -> str:
        """Content hash of all that a class map of an image depends on; threads are not among it."""
        return sha256_json([self.precision, self.backend, self.sha256, self.engines, environment()["versions"]])

    def result_file(self, kind: str) -> Path | None:
        """Where a bundle keeps a measurement of this side; None for other artefacts."""
        found = parse_target(self.text)
        return result_file(found.path, kind, self.precision, self.backend) if found.kind == "bundle" else None

    def as_json(self) -> dict[str, Any]:
        """As a result tells it."""
        return {"target": self.name, "precision": self.precision, "backend": self.backend, "graph_sha256": self.sha256}
