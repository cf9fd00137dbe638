"""A network whose tensors are narrower than its config's modules build them: what pruning leaves, rebuilt from a config alone.

``model=dict(type='Reshaped', network='EncoderDecoder', shapes={'backbone.conv1.weight': [24, 3, 7, 7], ...}, ...)`` builds the network that
the other keys describe and then gives each named tensor its shape. Widths of a pruned network differ from layer to layer, which the
arguments of mmseg's modules cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from segc.core.errors import UserError, nearest
from segc.models.config import without_pretrained
from segc.models.surgery import separate_attention as separate

NAME = "Reshaped"


@MODELS.register_module(name=NAME)
def build_reshaped(network: str, shapes: Mapping[str, Sequence[int]], separate_attention: bool = False, **model: Any) -> nn.Module:
    """The network of type ``network`` built from the other arguments, with the tensors of ``shapes`` made narrower.

    Args:
        network: mmseg's type, such as ``EncoderDecoder``.
        shapes: name of a tensor in the state dict -> its shape.
        separate_attention: first take torch's fused attention apart (``segc.models.surgery``).

    Raises:
        UserError: see ``reshape``.
    """
    built: nn.Module = MODELS.build({"type": network, **model})
    if separate_attention:
        separate(built)
    reshape(built, shapes)
    return built


def reshape(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Crop the named tensors of ``model`` in place, and tell the modules their new widths.

    Raises:
        UserError: an unknown name, or a shape of another rank or larger than the tensor's.
    """
    own = model.state_dict(keep_vars=True)
    for name, shape in shapes.items():
        if name not in own:
            raise UserError(f"the config reshapes {name!r}, which the network does not have.{nearest(name, own)}")
        _check(name, own[name], shape)
        path, _, leaf = name.rpartition(".")
        cropped = own[name].detach()[tuple(slice(size) for size in shape)].clone()
        is_parameter = isinstance(own[name], nn.Parameter)
        setattr(model.get_submodule(path), leaf, nn.Parameter(cropped, own[name].requires_grad) if is_parameter else cropped)
    for path in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
        _tell_widths(model.get_submodule(path))


def changed_shapes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """``shapes`` that make the tensors of one state dict as large as those of another."""
    return {name: list(tensor.shape) for name, tensor in after.items() if tensor.shape != before[name].shape}


def reshaped_config(cfg: Config, shapes: Mapping[str, Sequence[int]], separate_attention: bool) -> Config:
    """A config that builds the network of ``cfg`` with ``shapes``; those of an earlier pruning stay where they are not named again."""
    new = cfg.copy()
    model = without_pretrained(cfg.model)
    earlier = model.pop("shapes", {})
    model.setdefault("network", model["type"])
    apart = separate_attention or model.pop("separate_attention", False)
    new.model = {**model, "type": NAME, "separate_attention": apart, "shapes": {**earlier, **shapes}}
    return new


def _check(name: str, tensor: Tensor, shape: Any) -> None:
    whole = isinstance(shape, (list, tuple)) and all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    if not whole or len(shape) != tensor.dim() or any(not 0 < new <= old for new, old in zip(shape, tensor.shape, strict=True)):
        raise UserError(f"the config gives {name!r} the shape {shape}; expected sizes between 1 and those of {list(tensor.shape)}.")


def _tell_widths(module: nn.Module) -> None:
    """Bring the attributes that repeat a width up to date with the weights."""
    if isinstance(module, _ConvNd):
        _tell_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = _length(module)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = _length(module)


def _tell_convolution(conv: _ConvNd) -> None:
    first, second = conv.weight.shape[:2]
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels
    if depthwise:
        width = first if conv.transposed else first * conv.in_channels // conv.out_channels
        conv.groups = width
    before, after = (first, second * conv.groups) if conv.transposed else (second * conv.groups, first)
    conv.in_channels, conv.out_channels = before, after


def _length(norm: Any) -> int:
    return int((norm.weight if norm.weight is not None else norm.running_mean).shape[0])
