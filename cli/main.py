"""Entry point of the ``segc`` command: one line a verb. Verb modules import torch, mmseg and the like only when they run."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Annotated

import typer

from segc.cli import (
    benchmark,
    calibrate,
    card,
    compare,
    convert,
    data,
    distill,
    doctor,
    export,
    inspect,
    models,
    parity,
    plugins,
    predict,
    prune,
    report,
    run,
    search,
    sensitivity,
    train,
    validate,
)

# OpenCV reads it when it is loaded: a small file may say that it is a picture of 2^30 pixels, which are 3 GiB. 2^28 are 16384 x 16384.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

app = typer.Typer(
    name="segc",
    help="Compress a semantic-segmentation network for an edge device, and prove what it lost on the way.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segc {metadata.version('segc')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Compress a semantic-segmentation network for an edge device, and prove what it lost on the way."""


app.command("models")(models.models)
app.command("train")(train.train)
app.command("convert")(convert.convert)
app.command("prune")(prune.prune)
app.command("distill")(distill.distill)
app.command("export")(export.export)
app.command("calibrate")(calibrate.calibrate)
app.command("search")(search.search)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("validate")(validate.validate)
app.command("parity")(parity.parity)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("card")(card.card)
app.command("run")(run.run)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("predict")(predict.predict)
app.command("benchmark")(benchmark.benchmark)
app.add_typer(data.app, name="data")
app.add_typer(plugins.app, name="plugins")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
