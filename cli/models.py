"""``segc models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError, nearest

if TYPE_CHECKING:
    from segc.models.catalogue import Counts, Entry


@verb
def models(
    name: Annotated[str | None, typer.Argument(help="One network: its configs, weights and licences. Default: a table of all.")] = None,
) -> Outcome:
    """List the networks segc knows: size, operations, published mIoU, licence.

    Example: segc models

    Example: segc models segman-t
    """
    from segc.models.catalogue import catalogue, counts

    known = {entry.name: entry for entry in catalogue()}
    if name is None:
        data = {key: {**entry.model_dump(), **counts()[key].model_dump()} for key, entry in known.items()}
        return Outcome(f"{len(known)} networks; any other mmseg config works too", data, [_table(known, counts())])
    if name not in known:
        raise UserError(f"there is no network {name!r}.{nearest(name, known)}")
    entry, count = known[name], counts()[name]
    data = {**entry.model_dump(), **count.model_dump()}
    return Outcome(f"{name}: segc train {next(iter(entry.configs.values()))}", data, [_sheet(entry, count)])


def _table(known: dict[str, Entry], counted: dict[str, Counts]) -> object:
    from rich.table import Table

    title = "Published mIoU in %, single scale. GMAC of one image of that size, counted here."
    table = Table(title=title, title_justify="left")
    table.add_column("network", no_wrap=True)
    for column in ("M params", "GMAC", "image", "ADE20K", "City", "COCO"):
        table.add_column(column, justify="right")
    for name, entry in known.items():
        count = counted[name]
        scores = (entry.miou.get(dataset) for dataset in ("ade20k", "cityscapes", "cocostuff164k"))
        size = f"{entry.size[0]}x{entry.size[1]}"
        table.add_row(
            name, f"{count.parameters / 1e6:.2f}", f"{count.macs / 1e9:.1f}", size, *(f"{s:.2f}" if s is not None else "-" for s in scores)
        )
    return table


def _sheet(entry: Entry, count: Counts) -> object:
    from rich.table import Table

    table = Table(show_header=False)
    table.add_row("system", f"{entry.system} ({entry.paper})")
    table.add_row("parameters", f"{count.parameters / 1e6:.3f} M")
    table.add_row("operations", f"{count.macs / 1e9:.2f} GMAC at {entry.size[0]}x{entry.size[1]}")
    table.add_row("code", entry.code_licence)
    table.add_row("weights", entry.weights)
    for dataset, config in entry.configs.items():
        score = entry.miou.get(dataset)
        table.add_row(dataset, config + (f", mIoU {score:.2f} published" if score is not None else ""))
    return table
