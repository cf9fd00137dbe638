"""``segc calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError


@verb
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an fp32 graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of real images. Default: the bundle's training split.")] = None,
    count: Annotated[str, typer.Option(help="How many images; several counts (32,128,512) compare them by mIoU.")] = "64",
    select: Annotated[
        str | None, typer.Option(help="coverage (of classes; the default where there are labels), random or k-center.")
    ] = None,
    method: Annotated[str, typer.Option(help="minmax, percentile, mse or entropy.")] = "percentile",
    percentile: Annotated[float, typer.Option(help="For --method percentile.")] = 99.99,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Compare this many seeds, from --seed on, by mIoU.")] = 1,
    equalize: Annotated[bool, typer.Option("--equalize", help="Even out the channels of neighbouring weights first.")] = False,
    smooth_quant: Annotated[
        float | None, typer.Option(help="Move differences between channels of activations into weights first; alpha, 0 to 1.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Table file. Default: BUNDLE/calibration.json.")] = None,
    from_cache: Annotated[Path | None, typer.Option(help="Take the ranges of a TensorRT calibration cache; no image is run.")] = None,
    to_cache: Annotated[Path | None, typer.Option(help="Also write a calibration cache for TensorRT 10 or older.")] = None,
) -> Outcome:
    """Measure the range of every activation on real images and write the calibration table of a bundle.

    Example: segc calibrate bundle/ --images street/images/train --count 128 --method mse

    Example: segc calibrate bundle/ --count 32,128 --seeds 3
    """
    from segc.calib.calibrate import calibrate as run
    from segc.calib.calibrate import import_cache
    from segc.calib.select import images_in, training_set
    from segc.calib.table import read_table
    from segc.calib.tensorrt_cache import write_cache

    counts = parse_counts(count)
    compares = len(counts) > 1 or seeds > 1
    _check_together(compares, images, output, from_cache, to_cache)
    if (equalize or smooth_quant is not None) and (from_cache is not None or to_cache is not None):
        raise UserError(
            "a TensorRT cache belongs to the fp32 graph as it is, --equalize and --smooth-quant change it.", "Leave one of them out."
        )
    if from_cache is not None:
        path = import_cache(bundle, from_cache, output)
    else:
        found = images_in(images) if images else training_set(bundle)
        how: dict[str, Any] = {"method": method, "percentile": percentile, "select": select, "threads": threads}
        how |= {"equalize": equalize, "smooth_quant": smooth_quant}
        if compares:
            return _compare(bundle, found, counts, range(seed, seed + seeds), how)
        path = run(bundle, found, count=counts[0], seed=seed, output=output, **how)
    table = read_table(path)
    if to_cache is not None:
        write_cache(to_cache, table.ranges)
    summary = f"{len(table.ranges)} ranges by {table.method} on {len(table.images)} images ({table.select}): {path}"
    summary += f"; channels of {len(table.rescaled)} tensors rescaled" if table.rescaled else ""
    data = {"table": str(path), "tensors": len(table.ranges), "images": len(table.images), "select": table.select, "notes": table.notes}
    return Outcome(summary, data, table.notes)


def parse_counts(text: str) -> list[int]:
    """Counts of images, ``N`` or ``N,N,...``.

    Raises:
        UserError: anything else.
    """
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"--count is {text!r}; expected numbers of images above 0.", "--count 64 or --count 32,128,512")
    return [int(word) for word in words]


def _check_together(compares: bool, images: Path | None, output: Path | None, from_cache: Path | None, to_cache: Path | None) -> None:
    """Refuse options that another one leaves without effect."""
    if from_cache is not None and (compares or images is not None):
        raise UserError("--from-cache runs no image, but --images, several counts or --seeds were given.", "Leave one of them out.")
    if compares and (output is not None or to_cache is not None):
        raise UserError(
            "comparing counts or seeds writes no table, but -o or --to-cache was given.", "Compare, then give one --count and --seed."
        )


def _compare(bundle: Path, images: Any, counts: list[int], seeds: range, how: dict[str, Any]) -> Outcome:
    from rich.table import Table

    from segc.pipeline.calibration_sweep import sweep

    found = sweep(bundle, images, counts, seeds, **how)
    view = Table(title=f"{found['dataset']}, fp32 {found['fp32']:.2f} % mIoU")
    for name in ("images", "seed", "int8 mIoU %", "drop"):
        view.add_column(name, justify="right")
    for row in found["rows"]:
        view.add_row(str(row["count"]), str(row["seed"]), f"{row['miou']:.2f}", f"{row['drop']:+.2f}")
    lowest, highest = (pick(row["miou"] for row in found["rows"]) for pick in (min, max))
    return Outcome(f"int8 mIoU between {lowest:.2f} and {highest:.2f} %, by images and seeds; no table was written", found, [view])
