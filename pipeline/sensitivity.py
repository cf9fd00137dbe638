"""What each block costs in int8: alone in it, and alone out of it, in points of mIoU, in decibels and in milliseconds."""

from __future__ import annotations

from typing import Any

from segc.core.rows import Row, environment
from segc.pipeline.attempts import BOOTSTRAP, Accuracy, Attempts
from segc.pipeline.stopwatch import Timing
from segc.validate.intervals import drop_row

ONLY_INT8, ONLY_FLOAT = "only it in int8", "only it in float"


def sensitivity(attempts: Attempts) -> dict[str, Any]:
    """Score and time every block quantized alone, and kept in float alone while all others are int8.

    The two rankings of Wu et al., Integer Quantization for Deep Learning Inference (2020), section 5, with the time that each choice buys.

    Returns:
        ``blocks``: a record each. Drops are in points of mIoU against fp32; ``regained`` is what int8 loses less with the block in float;
        ``saved_ms`` counts from fp32's latency, ``cost_ms`` from int8's. ``rows``: the same with intervals and conditions.
    """
    alone = [{**attempts.all_in("fp32"), block: "int8"} for block in attempts.blocks]
    without = [{block: "fp32"} for block in attempts.blocks]
    whole, *scored = attempts.accuracy([{}, *alone, *without], "scoring blocks")
    base, *timed = attempts.timing([{}, *alone, *without])
    count = len(alone)
    pairs = list(zip(scored, timed, strict=True))
    return {
        "kind": "sensitivity",
        "backend": attempts.backend,
        "dataset": attempts.dataset_name,
        "int8": {**_drop(whole), "ms": base.ms, "fp32_ms": base.references[0]},
        "blocks": [
            _record(block, len(names), whole, one, other)
            for (block, names), one, other in zip(attempts.blocks.items(), pairs[:count], pairs[count:], strict=True)
        ],
        "rows": [
            row.model_dump()
            for (mode, block), (accuracy, timing) in zip(
                ((mode, block) for mode in (ONLY_INT8, ONLY_FLOAT) for block in attempts.blocks), pairs, strict=True
            )
            for row in _rows(attempts, {"mode": mode, "block": block}, accuracy, timing)
        ],
        "environment": environment(),
    }


def _record(block: str, nodes: int, whole: Accuracy, one: tuple[Accuracy, Timing], other: tuple[Accuracy, Timing]) -> dict[str, Any]:
    return {
        "block": block,
        "int8_nodes": nodes,
        "only_int8": {**_drop(one[0]), "saved_ms": one[1].references[0] - one[1].ms},
        "only_float": {
            **_drop(other[0]),
            "regained": whole.drop.value - other[0].drop.value,
            "cost_ms": other[1].ms - other[1].references[1],
        },
    }


def _drop(accuracy: Accuracy) -> dict[str, Any]:
    return {"drop": accuracy.drop.value, "low": accuracy.drop.low, "high": accuracy.drop.high, "sqnr_db": accuracy.sqnr}


def _rows(attempts: Attempts, conditions: dict[str, Any], accuracy: Accuracy, timing: Timing) -> list[Row]:
    conditions = {**conditions, **attempts.conditions}
    images = len(attempts.images)
    rows = [drop_row("drop mIoU", accuracy.drop.value, accuracy.drop, images, conditions, BOOTSTRAP)]
    if accuracy.sqnr:
        told = {**conditions, "per_image": accuracy.sqnr_each}
        rows.append(Row(metric="SQNR of the logits", value=accuracy.sqnr, unit="dB", n=len(accuracy.sqnr_each), conditions=told))
    beside = dict(zip(("fp32_ms", "int8_ms"), timing.references, strict=True))
    return [*rows, Row(metric="engine_p50", value=timing.ms, unit="ms", n=attempts.runs, conditions={**conditions, **beside})]
