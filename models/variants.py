"""Which variant of a network a checkpoint is of: by the names and shapes of its tensors, among the networks of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segc.models.build import build_model
from segc.models.catalogue import Entry, catalogue
from segc.models.config import load_config

# Below this share of common tensors two networks are no variants of each other.
_LEAST = 0.3


@dataclass(frozen=True)
class Variant:
    """A network of the catalogue, one of its configs, and how many of a checkpoint's and its tensors agree in name and shape."""

    name: str
    config: str
    fitting: int
    total: int

    def sentence(self) -> str:
        """What to tell the owner of the checkpoint."""
        if self.fitting == self.total:
            return f"It is {self.name}: give the config {self.config}."
        return f"The nearest network is {self.name} ({self.config}): {self.fitting} of {self.total} tensors fit."


def closest_variant(model_cfg: Mapping[str, Any], own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Variant | None:
    """The variant of a config's family (same class of head) that fits a state dict best; None when none fits better than ``own`` does.

    Args:
        model_cfg: the config's ``model``. own: state dict of its network.
        given: the checkpoint's tensors, in our names.
    """
    family = _family(_head(model_cfg))
    if not family:
        return None
    nearest = _best(((entry.name, _first_config(entry)) for entry in family.values()), given)
    best = _best(((nearest.name, config) for config in family[nearest.name].configs.values()), given)
    return best if _share(best) > max(_share(_compare("", "", own, given)), _LEAST) else None


def _family(head: Any) -> dict[str, Entry]:
    """Entries by name whose system has this head; one config a system is read, which takes a third of a second."""
    systems = {entry.system: entry for entry in reversed(catalogue())}
    same = {system for system, entry in systems.items() if _head(load_config(_first_config(entry)).model) == head}
    return {entry.name: entry for entry in catalogue() if entry.system in same}


def _best(candidates: Iterable[tuple[str, str]], given: Mapping[str, Tensor]) -> Variant:
    return max((_compare(name, config, _shapes(config), given) for name, config in candidates), key=_share)


def _compare(name: str, config: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Variant:
    fitting = sum(name in own and own[name].shape == tensor.shape for name, tensor in given.items())
    return Variant(name, config, fitting, len(own.keys() | given.keys()))


def _share(variant: Variant) -> float:
    return variant.fitting / max(variant.total, 1)


def _head(model_cfg: Mapping[str, Any]) -> Any:
    head = model_cfg.get("decode_head") or {}
    return (head[-1] if isinstance(head, list | tuple) else head).get("type")


def _first_config(entry: Entry) -> str:
    return next(iter(entry.configs.values()))


def _shapes(config: str) -> Mapping[str, Tensor]:
    """Names and shapes of the tensors of a config's network; no weights are kept."""
    with _without_weights():
        state: Mapping[str, Tensor] = build_model(load_config(config)).state_dict()
    return state


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters lose their values as soon as a module registers them."""

    def drop(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    # Its type does not say so, but its result takes the place of the parameter.
    hook = register_module_parameter_registration_hook(cast(Any, drop))
    try:
        yield
    finally:
        hook.remove()
