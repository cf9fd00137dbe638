"""``segc convert``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segc.cli.verb import Outcome, verb

if TYPE_CHECKING:
    from segc.models.convert import Difference

_SHOWN = 20


@verb
def convert(
    config: Annotated[str, typer.Argument(help="The config of the network: a path, mmseg::NAME.py or segc::NAME.py.")],
    weights: Annotated[Path, typer.Option(help="The published checkpoint: .pth, .pth.tar, .pkl (detectron2) or .safetensors.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file to write.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Write what fits, the rest with random weights: an encoder to start a training from.")
    ] = False,
    override: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a dotted key of the config.")] = None,
) -> Outcome:
    """Turn published weights (SegMAN, AFFormer, SegFormer, HetNet, ExtremeC3Net, mmseg 0.x) into one safe file with config and classes.

    Example: segc convert segc::segman/segman_t_ade20k.py --weights segman_t_ade.pth -o segman_t.safetensors
    """
    from segc.models.network import save_network
    from segc.models.published import convert as convert_published
    from segc.train.overrides import parse_overrides

    found = convert_published(config, weights, parse_overrides(override or []))
    passed = found.loaded > 0 and (partial or not found.differences)
    if passed:
        save_network(found.network, output)
    kinds = [item.kind for item in found.differences]
    counts = {kind: kinds.count(kind) for kind in ("missing", "unexpected", "reshaped")}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "every tensor fits"
    end = f"{output} written" if passed else "nothing was written" + (" (--partial writes what fits)" if found.loaded else "")
    nearest = None if passed else found.nearest()
    if nearest:
        end += f". {nearest.sentence()}"
    data = {"loaded": found.loaded, "total": found.total, **counts, "differences": [asdict(item) for item in found.differences]}
    data["nearest"] = asdict(nearest) if nearest else None
    view = [_table(found.differences)] if found.differences else []
    return Outcome(f"{found.loaded} of {found.total} tensors loaded: {told}; {end}", data, view, passed)


def _table(items: list[Difference]) -> object:
    from rich.table import Table

    table = Table("tensor", "", "checkpoint", "network")
    for item in items[:_SHOWN]:
        table.add_row(item.name, item.kind, *(str(shape) if shape else "-" for shape in (item.theirs, item.ours)))
    if len(items) > _SHOWN:
        table.add_row(f"... and {len(items) - _SHOWN} more (--json lists all)", "", "", "")
    return table
