"""Weights published by a network's authors, in our names; what does not fit is told tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from segc.models.afformer.convert import from_official as afformer
from segc.models.extrememeta.convert import from_official as extremec3
from segc.models.hetnet.convert import from_official as hetnet
from segc.models.mask2former.convert import from_official as mask2former
from segc.models.pem.convert import from_official as pem
from segc.models.segformer.convert import from_official as segformer
from segc.models.segman.convert import from_official as segman

State = dict[str, Tensor]
# By the type of the head, where that says more than the backbone, or of the backbone.
CONVERTERS: dict[str, Callable[[State], State]] = {
    "AFFormer": afformer,
    "ExtremeC3Net": extremec3,
    "HetNetBackbone": hetnet,
    "Mask2FormerHead": mask2former,
    "MixVisionTransformer": segformer,
    "PEMHead": pem,
    "SegMANEncoder": segman,
}
# Counters of batch norms that only training with momentum=None reads.
_OPTIONAL = ("num_batches_tracked",)


@dataclass(frozen=True)
class Difference:
    """A tensor that a network and a checkpoint do not have in common; a shape is None on the side that lacks it."""

    name: str
    kind: Literal["missing", "unexpected", "reshaped"]
    ours: tuple[int, ...] | None
    theirs: tuple[int, ...] | None


def in_our_names(model_cfg: Mapping[str, Any], state: State) -> State:
    """A published state dict in the names of our modules; one that has them already is returned as it is.

    Raises:
        UserError: the tensors contradict what the network's authors publish.
    """
    parts = (model_cfg.get(name) or {} for name in ("decode_head", "backbone"))
    kinds = [part.get("type", "") for part in parts if isinstance(part, Mapping)]
    convert = next((CONVERTERS[kind] for kind in kinds if kind in CONVERTERS), None)
    return convert(state) if convert else state


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Difference]:
    """What a network (``own``) and a state dict (``given``) do not have in common, the network's order first."""
    found = []
    for name, tensor in own.items():
        if name not in given:
            if not name.endswith(_OPTIONAL):
                found.append(Difference(name, "missing", tuple(tensor.shape), None))
        elif given[name].shape != tensor.shape:
            found.append(Difference(name, "reshaped", tuple(tensor.shape), tuple(given[name].shape)))
    found += [Difference(name, "unexpected", None, tuple(tensor.shape)) for name, tensor in given.items() if name not in own]
    return found
