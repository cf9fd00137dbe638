"""Batch normalisations folded into the convolutions they follow, found by the data's way and not by the order of registration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


def fold_batch_norms(model: nn.Module, run: Callable[[], object]) -> int:
    """Fold every batch normalisation that reads a convolution's output alone: one pass over memory less for each.

    A pair is folded when, in ``run``, both modules are called once and nothing else reads the convolution's output. The answer is equal
    but for rounding (Jacob et al. 2018, arXiv 1712.05877, section 3.2).

    Args:
        model: in eval mode; changed in place.
        run: runs the model once, on an input like those to come.

    Returns:
        How many were folded.
    """
    trace = _Trace()
    hooks = [hook for module in model.modules() for hook in trace.hooks(module)]
    try:
        with torch.inference_mode(), trace:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    pairs = trace.pairs()
    for convolution, norm in pairs:
        _fold(convolution, norm)
    _replace(model, {id(norm) for _, norm in pairs})
    return len(pairs)


@dataclass
class _Output:
    """A convolution's output while the model runs: who made it, who read it."""

    convolution: nn.Conv2d
    norm: _BatchNorm | None = None
    reads: int = 0
    reads_before: int = 0


@dataclass
class _Trace(TorchFunctionMode):
    """Follows the outputs of convolutions; it marks tensors, so that none is kept alive.

    A mode of torch's functions: one of its dispatcher would import torch's compiler, which takes longer than a validation's first images.
    """

    outputs: list[_Output] = field(default_factory=list)
    calls: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if (output := _mark(leaf)) is not None:
                output.reads += 1
        return func(*args, **(kwargs or {}))

    def hooks(self, module: nn.Module) -> list[Any]:
        """Watch a convolution or a normalisation."""
        if type(module) is nn.Conv2d:
            return [module.register_forward_hook(self._made)]
        if isinstance(module, _BatchNorm):
            return [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        return []

    def pairs(self) -> list[tuple[nn.Conv2d, _BatchNorm]]:
        """What can be folded."""
        return [
            (output.convolution, output.norm)
            for output in self.outputs
            if output.norm is not None and output.reads == self.calls[id(output.convolution)] == self.calls[id(output.norm)] == 1
        ]

    def _made(self, convolution: nn.Module, _: Any, output: Tensor) -> None:
        self.calls[id(convolution)] += 1
        assert isinstance(convolution, nn.Conv2d)
        self.outputs.append(_Output(convolution))
        output.made_by = self.outputs[-1]  # type: ignore[attr-defined]

    def _enter(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.calls[id(norm)] += 1
        if (output := _mark(inputs[0])) is not None and isinstance(norm, _BatchNorm):
            output.norm, output.reads_before = norm, output.reads

    def _leave(self, norm: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        """Whatever a normalisation asks of its input, such as the number of axes, it is one reader."""
        if (output := _mark(inputs[0])) is not None:
            output.reads = output.reads_before + 1


def _mark(value: object) -> _Output | None:
    return getattr(value, "made_by", None) if isinstance(value, Tensor) else None


def _fold(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    """The convolution with the normalisation's scale in its weight and its shift in its bias."""
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias


def _replace(model: nn.Module, norms: set[int]) -> None:
    for parent in model.modules():
        for name, child in list(parent._modules.items()):
            if id(child) in norms:
                setattr(parent, name, nn.Identity())
