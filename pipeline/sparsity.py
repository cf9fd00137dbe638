"""Make a trained network 2:4 sparse: masks by magnitude, then a short training that keeps them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from segc.compress.prune import modules_named
from segc.core.errors import CheckFailed, UserError
from segc.models.network import Network, check_weights, save_network
from segc.models.sparsity import SparsePlan, apply_masks, is_two_of_four, masks_of, plan_sparsity
from segc.pipeline.prune import register_data, train_into, tuning_config
from segc.train.sparsity import SparsityHook
from segc.train.trainer import TrainResult


@dataclass(frozen=True)
class SparseResult:
    """A sparse network, which of its weights are 2:4, the share of all parameters that is zero now, and the training if there was one."""

    network: Network
    plan: SparsePlan
    zeros: float
    training: TrainResult | None


def sparsify(
    network: Network, output: Path, keep: Sequence[str] = (), *, iterations: int = 0, work_dir: Path | None = None
) -> SparseResult:
    """Set two of every four weights along the input channels to zero and write the network to ``output``.

    The config that is written names the weights (``SparsityHook``): whatever trains it on leaves them sparse.

    Args:
        network: with its trained weights.
        output: the ``.safetensors`` to write.
        keep: names of modules that stay dense, with all inside them.
        iterations: of the training afterwards, which resumes like ``segc train``; 0 trains nothing.
        work_dir: of the training. None: beside ``output``.

    Raises:
        UserError: an unknown module, weights that are not numbers, nothing that can be sparse, or a training that went wrong.
        CheckFailed: a weight is not sparse at the end.
    """
    if iterations < 0:
        raise UserError(f"{iterations} iterations of fine-tuning; expected 0 or more.")
    check_weights(network.model)
    plan = sparse_plan(network, keep)
    register_data()
    sparse = replace(network, model=copy.deepcopy(network.model), cfg=_with_hook(network.cfg, plan))
    apply_masks(sparse.model, masks_of(sparse.model, plan.tensors))
    save_network(sparse, output)
    training = None
    if iterations:
        cfg = tuning_config(sparse.cfg, iterations, output)
        sparse, training = train_into(output, cfg, sparse.cfg, work_dir or output.with_suffix(""))
    return SparseResult(sparse, plan, _checked(sparse, plan), training)


def sparse_plan(network: Network, keep: Sequence[str] = ()) -> SparsePlan:
    """Which weights of a network become 2:4.

    Raises:
        UserError: an unknown module, or no weight that can be sparse.
    """
    plan = plan_sparsity(network.model, modules_named(network.model, keep))
    if not plan.tensors:
        raise UserError("no weight of this network can be 2:4 sparse.", "Leave out --keep.")
    return plan


def _with_hook(cfg: Config, plan: SparsePlan) -> Config:
    """The config with the hook of this plan in the place of an earlier one's."""
    found = copy.deepcopy(cfg)
    others = [hook for hook in found.get("custom_hooks") or [] if hook.get("type") != SparsityHook.__name__]
    found.custom_hooks = [*others, {"type": SparsityHook.__name__, "tensors": plan.tensors}]
    return found


def _checked(network: Network, plan: SparsePlan) -> float:
    """Share of the parameters that is zero.

    Raises:
        CheckFailed: a weight of the plan is not 2:4.
    """
    parameters = dict(network.model.named_parameters())
    broken = [name for name in plan.tensors if not is_two_of_four(parameters[name])]
    if broken:
        raise CheckFailed(f"{len(broken)} of {len(plan.tensors)} weights are not 2:4 sparse after the training ({', '.join(broken[:3])}).")
    zeros = sum(int((parameter == 0).sum()) for parameter in parameters.values())
    return zeros / sum(parameter.numel() for parameter in parameters.values())
