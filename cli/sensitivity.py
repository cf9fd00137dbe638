"""``segc sensitivity``."""

from __future__ import annotations

from typing import Any

from segc.cli.attempts import BackendName, Data, Limit, Options, RayAddress, Runs, Source, Threads, UseRay, Weights, WorkDir, open_attempts
from segc.cli.verb import Outcome, verb
from segc.core.files import write_json, write_text


@verb
def sensitivity(
    source: Source,
    weights: Weights = None,
    data: Data = None,
    work_dir: WorkDir = None,
    backend: BackendName = None,
    limit: Limit = None,
    runs: Runs = 30,
    threads: Threads = None,
    ray: UseRay = None,
    ray_address: RayAddress = None,
) -> Outcome:
    """Show what each block of a network costs in int8: mIoU, SQNR of the logits, and the latency that it buys.

    Every block is tried alone in int8, and alone in float while the others are int8. A stopped run goes on where it was.

    Example: segc sensitivity bundle/ --backend openvino
    """
    with open_attempts(Options(source, weights, data, work_dir, backend, limit, runs, threads, ray, ray_address)) as (attempts, _, work):
        from segc.pipeline.chart import sensitivity_svg
        from segc.pipeline.sensitivity import sensitivity as run

        found = run(attempts)
        path = work / f"sensitivity.{found['backend']}.json"
        write_json(path, found)
        write_text(path.with_suffix(".svg"), sensitivity_svg(found))
    worst = max(found["blocks"], key=lambda record: record["only_float"]["regained"])
    summary = (
        f"int8 loses {found['int8']['drop']:+.2f} points; most of it comes back with {worst['block']} in float "
        f"({worst['only_float']['regained']:+.2f}, {worst['only_float']['cost_ms']:+.2f} ms); picture: {path.with_suffix('.svg')}"
    )
    return Outcome(summary, {**found, "result": str(path)}, [_table(found)])


def _table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    whole = found["int8"]
    title = (
        f"{found['dataset']}, {found['backend']}: all int8 {whole['drop']:+.2f} points ({whole['low']:+.2f} to {whole['high']:+.2f}), "
        f"{_decibels(whole)} dB, {whole['ms']:.2f} ms; fp32 {whole['fp32_ms']:.2f} ms"
    )
    table = Table(title=title, caption="left: the block alone in int8; right: the block alone in float, all others in int8")
    table.add_column("block", no_wrap=True)
    for name in ("nodes", "drop", "SQNR dB", "saves ms", "regains", "SQNR dB", "costs ms"):
        table.add_column(name, justify="right")
    for record in found["blocks"]:
        alone, other = record["only_int8"], record["only_float"]
        left = (f"{alone['drop']:+.2f}", _decibels(alone), f"{alone['saved_ms']:+.2f}")
        right = (f"{other['regained']:+.2f}", _decibels(other), f"{other['cost_ms']:+.2f}")
        table.add_row(record["block"], str(record["int8_nodes"]), *left, *right)
    return table


def _decibels(record: dict[str, Any]) -> str:
    return "-" if record["sqnr_db"] is None else f"{record['sqnr_db']:.1f}"
