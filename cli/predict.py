"""``segc predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segc.cli.verb import Outcome, verb


@verb
def predict(
    source: Annotated[str, typer.Argument(help="Image, folder, quoted glob, video file or camera number.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Bundle[@precision], deploy graph (.onnx) or checkpoint.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write into.")],
    backend: Annotated[str | None, typer.Option(help="onnxruntime, openvino or torch. Default: the bundle's preferred.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the backend's choice.")] = None,
    save: Annotated[str, typer.Option(help="What to write: any of overlay, classmap, json.")] = "overlay,classmap,json",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in the overlay.")] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Images handed to the runner together.")] = 1,
) -> Outcome:
    """Segment images, a video or a camera into overlays, class maps and per-class areas.

    Example: segc predict street.jpg --model bundle/ -o out/
    """
    from segc.runtime import predict as prediction
    from segc.runtime.runner import open_runner
    from segc.runtime.segmenter import Segmenter
    from segc.runtime.sources import open_source

    saves = prediction.parse_saves(save)
    opened = open_source(source)
    runner = open_runner(model, backend, threads)
    segmenter = Segmenter(runner)
    count = prediction.predict(segmenter, opened, output, saves, opacity=opacity, batch=batch)
    frames = f"{count} image{'s' if count != 1 else ''}"
    data = {"frames": count, "output": str(output), "backend": runner.backend, "precision": runner.precision, "notices": segmenter.notices}
    view = [f"note: {notice}" for notice in segmenter.notices]
    return Outcome(f"{frames} segmented ({runner.precision}, {runner.backend}) into {output}.", data, view)
