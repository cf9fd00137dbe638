"""``segc calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segc.cli.verb import Outcome, verb


@verb
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an fp32 graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of real images. Default: the bundle's training split.")] = None,
    count: Annotated[int, typer.Option(help="How many images are drawn.")] = 64,
    method: Annotated[str, typer.Option(help="minmax, percentile, mse or entropy.")] = "percentile",
    percentile: Annotated[float, typer.Option(help="For --method percentile.")] = 99.99,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Table file. Default: BUNDLE/calibration.json.")] = None,
) -> Outcome:
    """Measure the range of every activation on real images and write the calibration table of a bundle.

    Example: segc calibrate bundle/ --images street/images/train --count 128 --method mse
    """
    from segc.calib.calibrate import calibrate as run
    from segc.calib.select import images_in, training_images
    from segc.calib.table import read_table

    found = images_in(images) if images else training_images(bundle)
    path = run(bundle, found, method=method, percentile=percentile, count=count, seed=seed, output=output, threads=threads)
    table = read_table(path)
    summary = f"{len(table.ranges)} ranges by {table.method} on {len(table.images)} images: {path}"
    return Outcome(
        summary, {"table": str(path), "tensors": len(table.ranges), "images": len(table.images), "notes": table.notes}, table.notes
    )
