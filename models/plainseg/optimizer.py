"""The learning rates that PlainSeg is trained with: a factor less for every layer further from the head."""

from __future__ import annotations

import re
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

_LAYER = re.compile(r"backbone\.layers\.(\d+)\.")
_EMBEDDINGS = ("backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PlainLayerDecay(DefaultOptimWrapperConstructor):
    """Layer i of L gets the rate times ``decay_rate ** (L - i)``, the embeddings ``decay_rate ** (L + 1)``, the head ``head_mult``.

    Biases, norms and other vectors get no weight decay. ``paramwise_cfg``: num_layers (L), decay_rate, head_mult.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Append one group for each rate and weight decay."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((self.scale(name), parameter.dim() > 1), []).append(parameter)
        for (scale, decays), members in groups.items():
            params.append({"params": members, "lr": scale * self.base_lr, "weight_decay": (self.base_wd or 0.0) if decays else 0.0})

    def scale(self, name: str) -> float:
        """Factor of the rate for a parameter of the whole network."""
        layers, rate = int(self.paramwise_cfg["num_layers"]), float(self.paramwise_cfg["decay_rate"])
        if name.startswith("decode_head."):
            return float(self.paramwise_cfg["head_mult"])
        if name.startswith(_EMBEDDINGS):
            return rate ** (layers + 1)
        layer = _LAYER.match(name)
        return rate ** (layers - int(layer[1])) if layer else 1.0

    def _validate_cfg(self) -> None:
        """Nothing of mmengine's own rules is used."""
