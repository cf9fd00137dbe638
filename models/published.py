"""Turn a checkpoint that a network's authors publish into ours, and say what became of each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from segc.models.checkpoint import read_checkpoint
from segc.models.convert import Difference, differences, in_our_names
from segc.models.network import Network, load_network
from segc.models.variants import Variant, closest_variant


@dataclass(frozen=True)
class Conversion:
    """A network filled with what fitted of a checkpoint, and what did not fit; ``loaded`` of ``total`` tensors fitted.

    ``given``: the checkpoint's tensors in our names.
    """

    network: Network
    differences: list[Difference]
    loaded: int
    total: int
    given: Mapping[str, Tensor] = field(repr=False)

    def nearest(self) -> Variant | None:
        """The variant of the network that the checkpoint fits better, if there is one; to look for it takes seconds."""
        return closest_variant(self.network.cfg.model, self.network.model.state_dict(), self.given)


def convert(config: str | Path | Config, weights: str | Path, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Build the network of ``config`` and fill it with those tensors of a published checkpoint that fit.

    The names that SegMAN's, AFFormer's, HetNet's, ExtremeC3Net's, PEM's and Mask2Former's authors give, and those of SegFormer's encoder,
    are turned into ours. Nothing is downloaded, no code of the file is run.

    Raises:
        UserError: config or weights cannot be read.
    """
    network = load_network(config, None, overrides=overrides, random_weights=True)
    own = network.model.state_dict()
    given = in_our_names(network.cfg.model, read_checkpoint(weights).state)
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    network.model.load_state_dict(fitting, strict=False)
    return Conversion(network, differences(own, given), len(fitting), len(own), given)
