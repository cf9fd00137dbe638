"""Our token mixers for torch-pruning's tracer: forwards and cutting functions that tell which channels of them belong together.

The tracer follows the gradient graph and knows convolutions, norms, sums, products, splits and concatenations. Attention and scans it
cannot follow; while it traces, a product of the same tensors stands for them, which ties the same channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from segc.models.afformer.attention import FilterAttention
from segc.models.segman.attention import GlobalMixer, LocalScanMixer, WindowAttention
from segc.models.segman.layers import LayerScale, SelectiveScan2d
from segc.models.surgery import SeparateAttention


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Give the token mixers of ``model`` their stand-ins for as long as the context lasts."""
    changed = [module for module in model.modules() if isinstance(module, tuple(_FORWARDS))]
    for module in changed:
        kind = next(kind for kind in _FORWARDS if isinstance(module, kind))
        module.forward = MethodType(_FORWARDS[kind], module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def heads_of(model: nn.Module) -> dict[nn.Module, tuple[int, bool]]:
    """Output projection of each attention -> (number of its heads, whether it loses whole heads instead of channels of every head).

    Rotary position encoding turns pairs of channels by angles that all heads share, so SegMAN loses whole heads.
    """
    found: dict[nn.Module, tuple[int, bool]] = {}
    for module in model.modules():
        if isinstance(module, SeparateAttention):
            found[module.out_proj] = (module.heads, False)
        elif isinstance(module, WindowAttention):
            found[module.proj] = (module.heads, True)
    return found


def fixed_layers(model: nn.Module) -> list[nn.Module]:
    """Layers inside token mixers whose output widths other modules repeat: AFFormer's filters split the values by their place."""
    return [module.qkv for module in model.modules() if isinstance(module, FilterAttention)]


class _Slices(BasePruningFunc):
    """Cut the channels of a module that keeps them in several parameters.

    Args:
        dims: name of a parameter -> its dimension that goes by channel. The first tells how many channels there are; a longer one
            holds them several times, one direction of a scan after the other.
    """

    def __init__(self, dims: dict[str, int]) -> None:
        super().__init__()
        self.dims = dims

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove channels from every parameter."""
        width = self.get_out_channels(layer)
        for name, dim in self.dims.items():
            parameter = getattr(layer, name)
            copies = parameter.shape[dim] // width
            gone = {copy * width + index for copy in range(copies) for index in idxs}
            kept = [index for index in range(parameter.shape[dim]) if index not in gone]
            setattr(layer, name, self._prune_parameter_and_grad(parameter, kept, dim))
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int:
        """Channels of the first parameter."""
        name, dim = next(iter(self.dims.items()))
        return int(getattr(layer, name).shape[dim])

    get_in_channels = get_out_channels


class _HeadTables(BasePruningFunc):
    """Cut the position biases of the heads whose channels go; ``idxs`` are channels of whole heads."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Remove the heads' tables."""
        tables, width = layer.rpb, round(layer.scale**-2)
        kept = sorted(set(range(tables[0].shape[0])) - {index // width for index in idxs})
        for number, table in enumerate(tables):
            tables[number] = self._prune_parameter_and_grad(table, kept, 0)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> None:
        """Unknown to the tracer, which never meets it."""

    get_in_channels = get_out_channels


CUT_HEAD_TABLES = _HeadTables().prune_out_channels

PRUNERS: dict[type[nn.Module], BasePruningFunc] = {
    LayerScale: _Slices({"weight": 0, "bias": 0}),
    SelectiveScan2d: _Slices({"dt_projs_weight": 1, "x_proj_weight": 1, "dt_projs_bias": 1, "A_logs": 0, "Ds": 0}),
}


def _same(self: nn.Module, x: Tensor) -> Tensor:
    return x * 1.0


def _values(qkv: Tensor) -> Tensor:
    """q, k and v, tied channel by channel; each is read once, as the tracer expects of a split."""
    width = qkv.shape[1] // 3
    q, k, v = (part * 1.0 for part in qkv.split([width] * 3, 1))
    return q * k * v


def _window_attention(self: Any, x: Tensor, *position: Tensor) -> Tensor:
    values = _values(self.qkv(x))
    return self.proj(values + self.lepe(values))


def _scan_mixer(self: Any, x: Tensor, *position: Tensor) -> Tensor:
    values = _values(self.qkv(x))
    scanned = self.norm(self.ssm(F.silu(self.dwconv(values))))
    return self.proj(scanned + values + self.lepe(values))


def _filter_attention(self: Any, x: Tensor, *filters: Any) -> Tensor:
    return self.proj(_values(self.qkv(x)))


_FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {
    FilterAttention: _filter_attention,
    GlobalMixer: _window_attention,
    LayerScale: _same,
    LocalScanMixer: _scan_mixer,
    SelectiveScan2d: _same,
}
