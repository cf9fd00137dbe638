"""``segc prune``."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segc.cli.distill import distillation_of
from segc.cli.source import config_and_weights
from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError

if TYPE_CHECKING:
    from segc.compress.distill.setup import Distillation
    from segc.compress.prune import Change
    from segc.compress.targets import Target
    from segc.models.network import Network
    from segc.pipeline.prune import PruneResult


@verb
def prune(
    source: Annotated[str, typer.Argument(help="A config (path, mmseg::NAME.py, segc::NAME.py), or a checkpoint with its config.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The .safetensors file to write.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the config: .safetensors or .pth.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the channels to remove.")] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters to leave.")] = None,
    flops: Annotated[float | None, typer.Option(help="Share of the operations to leave.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the measured latency to leave.")] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="2:4: no channel goes, two of every four weights along the input channels become zero.")
    ] = None,
    criterion: Annotated[str, typer.Option(help="l1, l2, taylor, hessian, bn, fpgm, lamp or random.")] = "l1",
    scope: Annotated[str, typer.Option(help="Ranking: local (inside a group), global, or isomorphic (equal structures).")] = "global",
    round_to: Annotated[int, typer.Option(help="Widths become multiples of this.")] = 8,
    keep: Annotated[list[str] | None, typer.Option(help="A module that keeps its output channels, with all inside it; repeatable.")] = None,
    steps: Annotated[int, typer.Option(help="Prune in so many steps.")] = 1,
    finetune: Annotated[int, typer.Option(help="Iterations of training after each step.")] = 0,
    teacher: Annotated[Path | None, typer.Option(help="A checkpoint, such as the whole network, that the training learns from.")] = None,
    loss: Annotated[list[str] | None, typer.Option(help="Against the teacher; see segc distill. Default: cwd.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Of the trainings. Default: beside the output.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images that taylor and hessian look at.")] = 32,
    seed: Annotated[int, typer.Option(help="Of random, and of those images.")] = 0,
    backend: Annotated[str | None, typer.Option(help="Where --latency is measured. Default: onnxruntime.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of --latency. Default: the backend's choice.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a dotted key of the config.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the groups and what would be cut; cut nothing.")] = False,
) -> Outcome:
    """Remove channels and attention heads; write the narrower network, its config inside, as one safe file that trains and exports.

    Example: segc prune best.safetensors --flops 0.5 --show

    Example: segc prune segc::quickstart/quickstart.py --weights best.safetensors --flops 0.5 --finetune 400 -o half.safetensors

    Example: segc prune best.safetensors --sparsity 2:4 --finetune 400 -o sparse.safetensors

    Example: segc prune best.safetensors --flops 0.5 --finetune 400 --teacher best.safetensors -o half.safetensors
    """
    given = {"ratio": ratio, "params": params, "flops": flops, "latency": latency}
    if output is None and not show:
        raise UserError("no output file was given.", "Add -o pruned.safetensors, or --show to look first.")
    distillation = _distillation(teacher, loss, finetune, sparsity)
    if sparsity is not None:
        choices = {"criterion": criterion, "scope": scope, "round_to": round_to, "steps": steps, "images": images, "seed": seed}
        _check_sparsity(sparsity, {**given, **choices, "backend": backend, "threads": threads})
        return _sparsify(_load(source, weights, override), None if show else output, keep or [], finetune, work_dir)
    target = _target(given, backend, threads)
    from segc.compress.prune import PruneOptions
    from segc.pipeline.prune import prune as run

    options = PruneOptions(criterion, scope, round_to, tuple(keep or ()), seed, images)
    network = _load(source, weights, override)
    if show or output is None:
        return _show(network, target, options)
    result = run(network, target, output, options, steps=steps, iterations=finetune, work_dir=work_dir, distillation=distillation)
    return _outcome(network, result, target, output)


def _target(given: dict[str, float | None], backend: str | None, threads: int | None) -> Target:
    from segc.compress.targets import Target

    named = {kind: value for kind, value in given.items() if value is not None}
    if len(named) != 1:
        told = ", ".join(f"--{kind}" for kind in named) or "none"
        raise UserError(f"one of --ratio, --params, --flops and --latency says how far to prune; given: {told}.", "Example: --flops 0.5")
    (kind, value), *_ = named.items()
    return Target(kind, value, backend, threads)


def _check_sparsity(sparsity: str, options: dict[str, Any]) -> None:
    """Refuse another pattern, and options of pruning channels that are not at their defaults."""
    if sparsity != "2:4":
        raise UserError(f"--sparsity is {sparsity!r}; expected 2:4, the pattern that sparse tensor cores know.", "--sparsity 2:4")
    defaults = signature(prune).parameters
    idle = [f"--{name.replace('_', '-')}" for name, value in options.items() if value != defaults[name].default]
    if idle:
        raise UserError(
            f"--sparsity removes no channels, draws nothing and measures no latency; given too: {', '.join(idle)}.",
            "Prune channels first, then make the result sparse with a second command.",
        )


def _sparsify(network: Network, output: Path | None, keep: list[str], iterations: int, work_dir: Path | None) -> Outcome:
    """Make a network 2:4 sparse, or only say what would be where there is no output."""
    from segc.pipeline.sparsity import sparse_plan, sparsify

    if output is None:
        plan = sparse_plan(network, keep)
        told = f"{len(plan.tensors)} weights would be 2:4 sparse, {len(plan.dense)} layers would stay dense; nothing was written"
        return Outcome(told, vars(plan), [_dense_table(plan.dense)])
    result = sparsify(network, output, keep, iterations=iterations, work_dir=work_dir)
    data: dict[str, Any] = {**vars(result.plan), "output": str(output), "zeros_percent": 100 * result.zeros}
    told = f"{len(result.plan.tensors)} weights are 2:4 sparse, {100 * result.zeros:.1f} % of all parameters are zero"
    if result.training:
        data["mIoU_percent"] = result.training.miou
        told += f"; mIoU {result.training.miou:.2f} % after fine-tuning"
    return Outcome(f"{told}; {output} written", data, [_dense_table(result.plan.dense), "Next:", f"  segc export {output} -o bundle/"])


def _dense_table(dense: dict[str, str]) -> object:
    from rich.table import Table

    table = Table("layer that stays dense", "why")
    for name, reason in dense.items():
        table.add_row(name, reason)
    return table


def _distillation(teacher: Path | None, losses: list[str] | None, iterations: int, sparsity: str | None) -> Distillation | None:
    if losses and teacher is None:
        raise UserError("--loss says what to learn from a teacher; none was given.", "Add --teacher best.safetensors")
    if teacher and not iterations:
        raise UserError("--teacher teaches while the pruned network is trained, and no training was asked for.", "Add --finetune 400")
    if teacher and sparsity:
        raise UserError("--sparsity trains without a teacher.", "Teach the sparse network: segc distill sparse.safetensors --teacher ...")
    return distillation_of(teacher, None, losses) if teacher else None


def _load(source: str, weights: Path | None, override: list[str] | None) -> Network:
    from segc.models.network import load_network
    from segc.train.overrides import parse_overrides

    config, checkpoint = config_and_weights(source, weights)
    return load_network(config, checkpoint, overrides=parse_overrides(override or []))


def _show(network: Network, target: Target, options: Any) -> Outcome:
    from segc.compress.prune import Pruner
    from segc.compress.targets import counted_size, plan_for
    from segc.models.complexity import complexity
    from segc.pipeline.prune import register_data

    register_data()
    pruner = Pruner(network, options)
    plan = plan_for(pruner, target)
    changes = pruner.changes(plan)
    size = counted_size(network)
    before, after = complexity(network.model, size), complexity(pruner.outline(plan), size)
    data = {"groups": [vars(change) for change in changes], "before": vars(before), "after": vars(after), "size": size}
    told = f"{sum(change.after < change.before for change in changes)} of {len(changes)} groups would be cut: {_costs(before, after, size)}"
    return Outcome(f"{told}; nothing was written", data, [_table(changes)])


def _outcome(network: Network, result: PruneResult, target: Target, output: Path) -> Outcome:
    data: dict[str, Any] = {"output": str(output), "before": vars(result.before), "after": vars(result.after), "size": result.size}
    told = _costs(result.before, result.after, result.size)
    if result.trainings:
        data["mIoU_percent"] = [training.miou for training in result.trainings]
        told += f"; mIoU {result.trainings[-1].miou:.2f} % after fine-tuning"
    if target.kind == "latency":
        from segc.compress.targets import compare_latency
        from segc.core.rows import value_of

        data["latency"] = compare_latency(network, result.network, target)
        before, after = (value_of(each, "engine_p50") for each in data["latency"])
        told += f"; engine {before:.1f} -> {after:.1f} ms"
    return Outcome(f"{told}; {output} written", data, ["Next:", f"  segc export {output} -o bundle/"])


def _costs(before: Any, after: Any, size: tuple[int, int]) -> str:
    return (
        f"{before.parameters / 1e6:.2f} -> {after.parameters / 1e6:.2f} M parameters ({100 * after.parameters / before.parameters:.0f} %), "
        f"{before.macs / 1e9:.2f} -> {after.macs / 1e9:.2f} GMAC at {size[0]}x{size[1]} ({100 * after.macs / before.macs:.0f} %)"
    )


def _table(changes: list[Change]) -> object:
    from rich.table import Table

    table = Table("group, by a layer that gives its channels", "layers", "unit", "before", "after")
    for change in changes:
        table.add_row(change.name, str(change.members), change.unit, str(change.before), str(change.after))
    return table
