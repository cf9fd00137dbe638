"""The same random weights for two implementations of one network, whatever order they keep their tensors in."""

from __future__ import annotations

import torch
from torch import Tensor

_GAIN = 0.6
_KEPT = ("angle", "num_batches_tracked")


def fill(state: dict[str, Tensor], seed: int) -> None:
    """Overwrite every tensor of a state dict in place, by name: no weight keeps a value (such as zero) that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(state):
        if not name.endswith(_KEPT):
            values = torch.randn(state[name].shape, generator=generator)
            state[name].copy_(_scaled(name, values))


def _scaled(name: str, values: Tensor) -> Tensor:
    if name.endswith("running_var"):
        return 1 + 0.2 * values.abs()
    if name.endswith("dt_projs_bias"):
        return 0.5 * values - 3
    if values.dim() <= 1:
        return 0.1 * values + (1 if name.endswith(("weight", "Ds")) else 0)
    if "A_logs" in name or "rpb" in name:
        return 0.5 * values
    return _GAIN * values * values[0].numel() ** -0.5
