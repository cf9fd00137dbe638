"""``segc data``: make the rendered street scene, check a dataset, list the known layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segc.cli.verb import Outcome, verb

if TYPE_CHECKING:
    from rich.table import Table

    from segc.data.check import CheckReport

_SHOWN = 20

app = typer.Typer(help="Make, check and list labelled datasets.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("make")
@verb
def make(
    out: Annotated[Path, typer.Argument(help="New folder for the dataset.")],
    train: Annotated[int, typer.Option(help="Training scenes.")] = 300,
    val: Annotated[int, typer.Option(help="Validation scenes.")] = 80,
    width: Annotated[int, typer.Option(help="Image width in pixels.")] = 480,
    height: Annotated[int, typer.Option(help="Image height in pixels.")] = 360,
    seed: Annotated[int, typer.Option(help="Other seeds give other scenes.")] = 0,
) -> Outcome:
    """Render a labelled street scene (11 classes) as a dataset; needs no download.

    Example: segc data make street --train 300 --val 80
    """
    from segc.data.render import RenderOptions, render_dataset, street_spec

    options = RenderOptions(width=width, height=height, train=train, val=val, seed=seed)
    root = render_dataset(out, options)
    spec = street_spec()
    return Outcome(
        f"{root}: {train} training and {val} validation scenes, {width}x{height}, {spec.num_classes} classes.",
        {"root": str(root), "layout": "folder", "train": train, "val": val, "size": [height, width], "classes": list(spec.classes)},
    )


@app.command("check")
@verb
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    layout: Annotated[str | None, typer.Option(help="Layout (see: segc data list); detected when left out.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Decoding threads; one a core when left out.")] = None,
) -> Outcome:
    """Find unpaired, unreadable, mislabelled and repeated images; print class frequencies. Exit code 1 when something is wrong.

    Example: segc data check data/cityscapes --layout cityscapes
    """
    from segc.data.check import check_dataset

    report = check_dataset(root, layout, threads)
    errors = sum(finding.is_error for finding in report.findings)
    pairs = " + ".join(f"{split.pairs} {split.split}" for split in report.splits)
    warnings = len(report.findings) - errors
    summary = f"{root} ({report.layout}, {report.spec.num_classes} classes): {pairs} pairs, {errors} errors, {warnings} warnings."
    return Outcome(summary, report.to_json(), [_frequencies(report), *_findings(report)], report.passed)


@app.command("list")
@verb
def list_layouts() -> Outcome:
    """List the dataset layouts that --layout knows, and where the embedded dataset lies.

    Example: segc data list
    """
    from rich.table import Table

    from segc.core.files import cache_folder
    from segc.data.embedded import camvid_root
    from segc.data.layout import LAYOUTS
    from segc.data.spec import known_specs

    table = Table("layout", "classes", "files", show_lines=True)
    rows = []
    for layout in LAYOUTS.values():
        spec = known_specs().get(layout.name)
        folders = [(f"{images}/*{layout.image_end}", f"{labels}/*{layout.label_end}") for images, labels in layout.folders]
        row = {"layout": layout.name, "title": layout.title, "classes": spec.num_classes if spec else None, "splits": layout.splits}
        rows.append({**row, "folders": folders})
        own = ", ".join(f"{split} = {name}" for split, name in layout.splits.items())
        files = "\n[dim]or[/]\n".join("\n".join(pair) for pair in folders)
        title = f"[bold]{layout.title}[/]" + (f" ({own})" if own else "")
        table.add_row(layout.name, str(spec.num_classes) if spec else "dataset.json", f"{title}\n{files}")
    real = camvid_root()
    embedded = f"real CamVid images in {real}" if real else f"a street scene rendered into {cache_folder()} on first use"
    data = {"layouts": rows, "embedded": str(real) if real else None, "cache": str(cache_folder())}
    return Outcome(f"{len(rows)} layouts. The embedded dataset is {embedded}.", data, [table])


def _frequencies(report: CheckReport) -> Table:
    from rich.table import Table

    table = Table(title="class frequencies: share of pixels, number of images that show the class")
    table.add_column("class")
    for split in report.splits:
        table.add_column(f"{split.split} %", justify="right")
        table.add_column("images", justify="right")
    for index, name in enumerate(report.spec.classes):
        cells = [(f"{split.shares()[index]:.2f}", str(split.images_with[index])) for split in report.splits]
        table.add_row(name, *(cell for pair in cells for cell in pair))
    ignored = [(f"{split.ignored_share():.2f}", "") for split in report.splits]
    table.add_row("(ignored)", *(cell for pair in ignored for cell in pair), style="dim")
    return table


def _findings(report: CheckReport) -> list[str]:
    """The findings as lines, errors first; ``_SHOWN`` of them at most."""
    from rich.markup import escape

    lines = []
    ordered = sorted(report.findings, key=lambda finding: not finding.is_error)
    for finding in ordered[:_SHOWN]:
        weight = "[red]error[/]" if finding.is_error else "[yellow]warning[/]"
        lines.append(f"{weight} [bold]{finding.kind}[/] " + escape(f"{finding.path}: {finding.detail}".replace(f"{report.root}/", "")))
    rest = len(ordered) - _SHOWN
    return lines if rest <= 0 else [*lines, f"... and {rest} more: --json lists all."]
