"""``segc predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segc.cli.verb import BACKENDS, Outcome, verb
from segc.core.errors import UserError

if TYPE_CHECKING:
    from segc.runtime.segmenter import Segmenter

_SOURCE = "Image, folder, quoted glob, video file, camera (number or /dev/video0), rtsp://..., or GStreamer pipeline ('... ! appsink')."


@verb
def predict(
    source: Annotated[str, typer.Argument(help=_SOURCE)],
    model: Annotated[str, typer.Option("--model", "-m", help="Bundle[@precision], deploy graph (.onnx) or checkpoint.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write into.")] = None,
    backend: Annotated[str | None, typer.Option(help=f"{BACKENDS} Default: the bundle's preferred.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the backend's choice.")] = None,
    save: Annotated[str, typer.Option(help="What to write: any of overlay, classmap, json.")] = "overlay,classmap,json",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in the overlay.")] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Images handed to the runner together.")] = 1,
    record: Annotated[Path | None, typer.Option(help="Of a stream: the overlay video's file (.mp4); -o is then optional.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Of a stream: write rate, latency and dropped frames into the overlay.")] = False,
    queue: Annotated[int, typer.Option(min=1, help="Of a stream: frames that may wait; a live one drops the oldest beyond.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Of a stream: stop after this many frames.")] = None,
) -> Outcome:
    """Segment images, a video or a live stream into overlays, class maps and per-class areas. ^C ends a stream with its files finished.

    Example: segc predict street.jpg --model bundle/ -o out/
    """
    from segc.runtime import predict as prediction
    from segc.runtime.runner import open_runner
    from segc.runtime.segmenter import Segmenter
    from segc.runtime.sources import ImageSource, open_source
    from segc.runtime.stream import StreamOptions, predict_stream

    saves = prediction.parse_saves(save)
    if record is not None and record.suffix != ".mp4":
        raise UserError(f"--record {record} does not end in .mp4, the one format written here.")
    opened = open_source(source)
    if output is None and (record is None or isinstance(opened, ImageSource)):
        raise UserError("nothing says where to write.", "Add -o FOLDER, or of a stream --record FILE.mp4.")
    if isinstance(opened, ImageSource) and (record or stats or limit):
        raise UserError(f"--record, --stats and --limit are for streams; {source} is {len(opened)} image file(s).", "Leave them out.")
    segmenter = Segmenter(open_runner(model, backend, threads))
    if isinstance(opened, ImageSource):
        assert output is not None
        count = prediction.predict(segmenter, opened, output, saves, opacity=opacity, batch=batch)
        return _outcome(f"{count} image{'s' if count != 1 else ''} segmented", output, segmenter, {"frames": count})
    options = StreamOptions(output, frozenset(saves), record, stats, opacity, batch, queue, limit)
    told = predict_stream(segmenter, opened, options)
    if told["stopped"] and not opened.live:
        print(f"stopped before the end: {_sentence(told)}", file=sys.stderr)
        raise KeyboardInterrupt
    return _outcome(_sentence(told), record or output, segmenter, {"frames": told["frames_segmented"], "stream": told})


def _sentence(told: dict[str, Any]) -> str:
    counts = f"{told['frames_segmented']} frames segmented, {told['frames_dropped']} of {told['frames_read']} dropped"
    return f"{counts}, {told['fps']:.1f} frames/s, latency {told['latency_p50_ms']:.0f} ms (p99 {told['latency_p99_ms']:.0f})"


def _outcome(what: str, where: Path | None, segmenter: Segmenter, data: dict[str, Any]) -> Outcome:
    runner = segmenter.runner
    told = {**data, "output": str(where), "backend": runner.backend, "precision": runner.precision, "notices": segmenter.notices}
    view = [f"note: {notice}" for notice in segmenter.notices]
    return Outcome(f"{what} ({runner.precision}, {runner.backend}) into {where}.", told, view)
