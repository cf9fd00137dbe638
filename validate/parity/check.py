"""``segc parity``: the ladder on labelled images, its tolerances, and the result that is stored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import write_json
from segc.core.progress import track
from segc.core.rows import Row, environment
from segc.data.dataset import Pair, SegmentationSet
from segc.export.verify import pick
from segc.models.network import Network, load_network
from segc.runtime.bundle import graph_path, read_manifest
from segc.runtime.runner import open_runner
from segc.runtime.segmenter import Segmenter
from segc.runtime.target import Target, parse_target
from segc.validate.parity.deployed import DeployedPipeline
from segc.validate.parity.ladder import LADDER, METRIC, RUNTIME, Ladder, climb, miou, mmseg_miou
from segc.validate.parity.trace import STAGES
from segc.validate.parity.training import TrainingPipeline
from segc.validate.sides import Side

DEFAULT_IMAGES = 20
_PIXELS = {"fp32": 0.1, "fp16": 0.5, "int8": 5.0}
_WHY_PIXELS = {
    "fp32": "sums in another order decide near ties otherwise",
    "fp16": "11 bits of mantissa decide near ties otherwise",
    "int8": "8-bit steps; what they cost in mIoU is for segc validate to judge",
}


@dataclass(frozen=True)
class Rule:
    """What a stage may differ by at most, and why not less."""

    unit: str
    tolerance: float
    reason: str


def rules(numbers: str) -> dict[str, Rule]:
    """Stage -> its rule, for a graph that computes with ``numbers`` (``fp32``, ``fp16``, ``int8``)."""
    pixels = Rule("% of pixels", _PIXELS[numbers], _WHY_PIXELS[numbers])
    decided = pixels if numbers != "int8" else Rule("% of pixels", _PIXELS["fp16"], "the upsampling of an int8 graph is in float")
    return {
        "decode": Rule("grey levels", 0, "both decode the file with OpenCV"),
        "resize": Rule("grey levels", 1, "OpenCV rounds the weights of uint8 images to 11 bits"),
        "normalize": Rule("grey levels", 0.5, "less than rounding the image to 8 bits does"),
        "windows": Rule("windows", 0, "one rule places them"),
        "logits": pixels,
        "upsample": decided,
        "argmax": decided,
        RUNTIME: pixels,
        METRIC: Rule("points", 0.01, "mmseg counts in float32"),
    }


def parity(
    target: str,
    against: str,
    dataset: SegmentationSet,
    *,
    config: str | None = None,
    backend: str | None = None,
    limit: int = DEFAULT_IMAGES,
    output: Path | None = None,
) -> dict[str, Any]:
    """Compare a deployed artefact with the training pipeline of its checkpoint, stage by stage.

    Args:
        target: bundle (``PATH@PRECISION``) or deploy graph. Its pieces run in ONNX Runtime, the whole of it in ``backend``.
        against: checkpoint.
        dataset: labelled images; ``limit`` of them, evenly spread.
        config: of a checkpoint that carries none.
        backend: see ``segc.runtime.runner.open_runner``.
        output: result file; None stores it in the bundle's ``results/`` when ``target`` is a bundle.

    Raises:
        UserError: a target that is no deploy graph, a checkpoint without config, classes that do not fit, a graph that cannot be cut.
    """
    found = parse_target(target)
    if found.kind == "checkpoint":
        raise UserError(f"{target} is a checkpoint; parity compares a deployed graph with it.", f"segc export {target} -o bundle")
    side, runner = Side.of(target, backend), open_runner(found, backend)
    network = _network(against, config)
    _check_classes(runner.contract, network, dataset)
    training = TrainingPipeline(network, runner.contract)
    deployed = DeployedPipeline(_graph(found, side.precision), runner.contract, training.std)
    shipped, ladder = Segmenter(runner), Ladder(dataset.spec.num_classes)
    pairs = _spread(dataset, limit)
    start = time.perf_counter()
    for pair in track(pairs, "climbing the ladder"):
        climb(ladder, training, deployed, shipped, dataset, pair)
    conditions = {"precision": side.precision, "backend": side.backend, "numbers": deployed.numbers, "split": dataset.split}
    result = {
        "kind": "parity",
        **side.as_json(),
        "against": {"target": Path(against).name},
        **_result(ladder, rules(deployed.numbers), len(pairs), conditions),
        "dataset": {"name": dataset.spec.name, "split": dataset.split, "n": len(pairs), "images": [pair.image.name for pair in pairs]},
        "seconds": time.perf_counter() - start,
        "environment": environment(),
    }
    if path := output or side.result_file("parity"):
        write_json(path, result)
    return result


def _network(against: str, config: str | None) -> Network:
    found = parse_target(against)
    if found.kind != "checkpoint":
        raise UserError(f"--against {against} is no checkpoint: the training pipeline needs the network in torch.", "Give a .safetensors.")
    return load_network(config, found.path)


def _graph(target: Target, precision: str) -> Path:
    return graph_path(target.path, read_manifest(target.path), precision) if target.kind == "bundle" else target.path


def _check_classes(contract: Contract, network: Network, dataset: SegmentationSet) -> None:
    numbers = {"the graph": contract.num_classes, "the checkpoint": len(network.classes), "the dataset": dataset.spec.num_classes}
    if len(set(numbers.values())) > 1:
        raise UserError(f"the numbers of classes differ: {', '.join(f'{name} {number}' for name, number in numbers.items())}.")


def _spread(dataset: SegmentationSet, limit: int) -> list[Pair]:
    chosen = set(pick(dataset.image_paths, limit))
    return [pair for pair in dataset if pair.image in chosen]


def _result(ladder: Ladder, limits: Mapping[str, Rule], n: int, conditions: dict[str, Any]) -> dict[str, Any]:
    """Stages, headline rows and verdict."""
    scores = {
        "deployed": [miou(total) for total in ladder.deployed_first],
        "training": [miou(total) for total in ladder.training_first],
    }
    theirs, ours, shipped = scores["deployed"][0], scores["training"][0], miou(ladder.shipped)
    ladder.found[METRIC].add(abs(mmseg_miou(ladder.mmseg) - (theirs or 0.0)))
    costs = {stage: _costs(scores, index) for index, stage in enumerate(STAGES)}
    costs[RUNTIME] = (_minus(ours, shipped), None)
    stages = [_stage(stage, ladder, limits[stage], costs.get(stage, (None, None))) for stage in LADDER]
    cut = STAGES.index("normalize") + 1
    headlines = {
        "mIoU, training pipeline": theirs,
        "mIoU, deployed": shipped,
        "mIoU, deployed preprocessing and training network": scores["deployed"][cut],
        "mIoU, training preprocessing and deployed network": scores["training"][cut],
        "mIoU lost by the pipeline": _minus(theirs, shipped),
    }
    rows = [_row(name, value, "points" if "lost" in name else "%", n, conditions) for name, value in headlines.items() if value is not None]
    rows += [
        _row(f"parity {each['stage']}", each["difference"], each["unit"], n, {**conditions, "tolerance": each["tolerance"]})
        for each in stages
        if each["difference"] is not None
    ]
    first = next((each["stage"] for each in stages if not each["passed"]), None)
    return {"passed": first is None, "first": first, "stages": stages, "rows": [row.model_dump() for row in rows]}


def _costs(scores: Mapping[str, list[float | None]], index: int) -> tuple[float | None, float | None]:
    """Points that stage ``index`` costs when the stages before it are deployed already, and when those after it are."""
    deployed, training = scores["deployed"], scores["training"]
    return _minus(deployed[index], deployed[index + 1]), _minus(training[index + 1], training[index])


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _stage(name: str, ladder: Ladder, rule: Rule, costs: tuple[float | None, float | None]) -> dict[str, Any]:
    found = ladder.found[name]
    return {
        "stage": name,
        "difference": found.difference,
        "unit": rule.unit,
        "tolerance": rule.tolerance,
        "reason": rule.reason,
        "passed": not found.reshaped and (found.difference is None or found.difference <= rule.tolerance),
        "note": found.misfit,
        "cost": costs[0],
        "cost_training_first": costs[1],
    }


def _row(metric: str, value: float, unit: str, n: int, conditions: dict[str, Any]) -> Row:
    return Row(metric=metric, value=value, unit=unit, n=n, conditions=conditions)
