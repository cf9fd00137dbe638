"""Parameters and operations of a network, counted without running it, in the unit of the field's tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segc.core.contract import Size

aten = torch.ops.aten


@dataclass(frozen=True)
class Complexity:
    """``parameters``: of what is deployed, without auxiliary heads. ``macs``: operations of one image, see ``complexity``."""

    parameters: int
    macs: int


def complexity(model: nn.Module, size: Size) -> Complexity:
    """Count an mmseg ``EncoderDecoder`` at an image size (height, width); shapes only, so that any size is cheap.

    A multiply-accumulate counts as one, as in the tables of papers, which call the sum FLOPs: matrix products, convolutions and
    attention; norms, interpolations and scans with the weights of fvcore and VMamba, which those tables were made with. The last
    interpolation, to the image's size, is included.
    """
    import segc.ops.flops  # noqa: F401  (formulas of our operators)

    twin = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    counter = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    with torch.no_grad(), counter:
        logits = twin(torch.empty(1, 3, *size, device="meta"), mode="tensor")
        if isinstance(logits, Tensor):
            F.interpolate(logits, size, mode="bilinear")
    return Complexity(parameter_count(twin), counter.get_total_flops() // 2)


def parameter_count(model: nn.Module) -> int:
    """Parameters of what is deployed of an mmseg ``EncoderDecoder``: all but the auxiliary heads'."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("auxiliary_head"))


def _of_input(weight: int) -> Callable[..., int]:
    def count(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
        return 2 * weight * math.prod(shape)

    return count


def _of_output(weight: int) -> Callable[..., int]:
    def count(*args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
        return 2 * weight * math.prod(out_shape)

    return count


# fvcore's weights for each element: 5 for a norm that has to measure, 2 for one that knows, 4 for an interpolation, 1 for a pool.
_ELEMENTWISE: dict[Any, Any] = {
    aten.native_layer_norm: _of_input(5),
    aten.native_group_norm: _of_input(5),
    aten.native_batch_norm: _of_input(2),
    aten._native_batch_norm_legit_no_training: _of_input(2),
    aten.upsample_bilinear2d: _of_output(4),
    aten._adaptive_avg_pool2d: _of_input(1),
}
