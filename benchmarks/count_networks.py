"""Count parameters and operations of every network of the catalogue: ``python -m benchmarks.count_networks``.

Shapes only, so that it takes seconds a network on any machine. Results: models/catalogue_counts.json, which ``segc models`` shows.
"""

from __future__ import annotations

from segc.core.files import write_json
from segc.models.catalogue import COUNTS, Counts, Entry, catalogue
from segc.models.complexity import complexity
from segc.models.config import load_config
from segc.models.network import build_model


def main() -> None:
    """Count, print and store."""
    found = {}
    for entry in catalogue():
        found[entry.name] = count(entry).model_dump()
        print(f"{entry.name:20s} {found[entry.name]['parameters'] / 1e6:8.3f} M {found[entry.name]['macs'] / 1e9:8.2f} G", flush=True)
    write_json(COUNTS, found)


def count(entry: Entry) -> Counts:
    """Counts of an entry's first config, at the entry's size."""
    found = complexity(build_model(load_config(next(iter(entry.configs.values())))), entry.size)
    return Counts(parameters=found.parameters, macs=found.macs)


if __name__ == "__main__":
    main()
