"""Latency of graphs on one backend, each beside the same references in interleaved rounds: only ratios of one round are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segc.core.files import read_json, sha256_file, sha256_json, write_json
from segc.core.rows import cpu_name, package_version, value_of
from segc.runtime.benchmark import benchmark_many
from segc.runtime.runner import BACKENDS
from segc.runtime.target import Target

# Each graph is loaded in a process of its own while its group is measured.
GROUP = 6


@dataclass(frozen=True)
class Timing:
    """Median engine milliseconds of a graph and of the references measured in the same rounds."""

    ms: float
    references: list[float]


@dataclass(frozen=True)
class Stopwatch:
    """Measures graphs beside ``references`` and keeps the timings in ``folder``; nothing else may run meanwhile.

    images: real ones, used in turn. threads: None leaves it to the backend.
    """

    folder: Path
    backend: str
    references: Sequence[Path]
    images: Sequence[Path]
    runs: int = 30
    threads: int | None = None

    def measure(self, graphs: Sequence[Path]) -> list[Timing]:
        """The timings of some graphs, in their order; those that were measured on this machine before are read."""
        references = [sha256_file(path) for path in self.references]
        files = {path: self._file(path, references) for path in graphs}
        missing = [path for path in dict.fromkeys(graphs) if not files[path].is_file()]
        for start in range(0, len(missing), GROUP):
            group = missing[start : start + GROUP]
            told, count = self._round([*self.references, *group]), len(self.references)
            for path, ms in zip(group, told[count:], strict=True):
                write_json(files[path], {"ms": ms, "references": told[:count]})
        return [Timing(**read_json(files[path])) for path in graphs]

    def _round(self, graphs: Sequence[Path]) -> list[float]:
        targets: list[tuple[str | Target, str | None]] = [(Target(path, "onnx"), self.backend) for path in graphs]
        results = benchmark_many(targets, threads=self.threads, runs=self.runs, images=self.images)
        return [value_of(result, "engine_p50") for result in results]

    def _file(self, graph: Path, references: Sequence[str]) -> Path:
        """Where the timing of a graph lies; ``references``: their hashes."""
        hashes = [sha256_file(graph), *references]
        where = [self.backend, package_version(BACKENDS[self.backend].package), cpu_name(), self.threads, self.runs, len(self.images)]
        return self.folder / f"{sha256_json([hashes, where])[:32]}.latency.json"
