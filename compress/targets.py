"""What a plan leaves of a network: parameters, operations, or time measured on a runtime of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.compress.prune import Plan, Pruner, reach
from segc.core.contract import Size
from segc.core.errors import UserError
from segc.core.rows import value_of
from segc.export.exporter import export_network
from segc.models.complexity import complexity
from segc.models.contract import own_size
from segc.models.network import Network, save_network
from segc.runtime.benchmark import benchmark_many

# Halvings of the interval of ratios. Counting is exact and cheap; a measured time is neither.
_STEPS = {"params": 8, "flops": 8, "latency": 6}
_RUNS, _CHECK_RUNS = 20, 60
_DEFAULT_SIZE = (512, 512)

Measure = Callable[[Plan], float]


@dataclass(frozen=True)
class Target:
    """How far to prune.

    kind: ``ratio`` (share of all channels to remove), or what shall be left: ``params``, ``flops``, ``latency``. value: the share, between
    0 and 1. backend, threads: where latency is measured; None takes ONNX Runtime and its choice.
    """

    kind: str
    value: float
    backend: str | None = None
    threads: int | None = None


def plan_for(pruner: Pruner, target: Target, whole: Network | None = None) -> Plan:
    """The plan that reaches a target with the least cut.

    Args:
        pruner: of the network as it is now.
        target: see ``Target``.
        whole: the network whose cost counts as 1, where that is another one than the pruner's: several steps share one target.

    Raises:
        UserError: a share that is not between 0 and 1.
        CheckFailed: even the strongest cut leaves more.
    """
    if target.kind == "ratio":
        return pruner.plan(target.value)
    if not 0 < target.value < 1:
        raise UserError(f"--{target.kind} is {target.value:g}; expected the share that shall be left, between 0 and 1, such as 0.5.")
    whole = whole or pruner.network
    if target.kind != "latency":
        measure = _counted(pruner, whole, target.kind)
        return reach(pruner, target.value, measure, target.kind, _STEPS[target.kind])
    with tempfile.TemporaryDirectory(prefix="segc-prune-") as folder:
        measure = _timed(pruner, whole, target, Path(folder))
        return reach(pruner, target.value, measure, target.kind, _STEPS[target.kind])


def counted_size(network: Network) -> Size:
    """(height, width) that operations are counted at: the config's own, else that of its training crops."""
    preprocessor = network.cfg.model.get("data_preprocessor") or {}
    size = own_size(network.cfg) or preprocessor.get("size") or network.cfg.get("crop_size") or _DEFAULT_SIZE
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def compare_latency(whole: Network, pruned: Network, target: Target) -> list[dict[str, Any]]:
    """Results of ``segc.runtime.benchmark`` for the deploy graphs of two networks, measured turn by turn on noise.

    Raises:
        UserError, CheckFailed: one of them cannot be exported or opened.
    """
    with tempfile.TemporaryDirectory(prefix="segc-prune-") as folder:
        bundles = [_bundle(network, Path(folder) / name) for network, name in ((whole, "whole"), (pruned, "pruned"))]
        return _benchmark(bundles, target, _CHECK_RUNS)


def _counted(pruner: Pruner, whole: Network, kind: str) -> Measure:
    size, key = counted_size(whole), {"params": "parameters", "flops": "macs"}[kind]
    before = getattr(complexity(whole.model, size), key)
    return lambda plan: float(getattr(complexity(pruner.outline(plan), size), key) / before)


def _timed(pruner: Pruner, whole: Network, target: Target, folder: Path) -> Measure:
    """Time of a plan's deploy graph over that of the whole network, measured turn by turn."""
    first = _bundle(whole, folder / "whole")

    def measure(plan: Plan) -> float:
        results = _benchmark([first, _bundle(pruner.cut(plan), folder / "pruned")], target, _RUNS)
        before, after = (value_of(result, "engine_p50") for result in results)
        return after / before

    return measure


def _bundle(network: Network, folder: Path) -> Path:
    weights = folder.with_suffix(".safetensors")
    save_network(network, weights)
    export_network(None, weights, folder)
    return folder


def _benchmark(bundles: list[Path], target: Target, runs: int) -> list[dict[str, Any]]:
    backend = target.backend or "onnxruntime"
    return benchmark_many([(str(bundle), backend) for bundle in bundles], threads=target.threads, runs=runs)
