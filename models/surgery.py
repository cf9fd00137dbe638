"""torch's fused attention taken apart: linear layers of their own for q, k and v, which pruners and quantizers can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Name of a projection -> its third of the fused weight.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SeparateAttention(nn.Module):
    """A ``torch.nn.MultiheadAttention`` with the same weights in four linear layers; its heads may be narrower than E / heads.

    Args:
        attention: the module to copy; it is left as it is. It must not append keys (``bias_k``, ``add_zero_attn``).
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width, self.heads = attention.embed_dim, attention.num_heads
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        # Of the original heads: pruning must not change the temperature.
        self.scale = attention.head_dim**-0.5
        bias = attention.in_proj_bias is not None
        self.q_proj = nn.Linear(width, width, bias)
        self.k_proj = nn.Linear(attention.kdim, width, bias)
        self.v_proj = nn.Linear(attention.vdim, width, bias)
        self.out_proj = nn.Linear(width, width, attention.out_proj.bias is not None)
        for name, weight in zip(_PROJECTIONS, _weights(attention), strict=True):
            getattr(self, name).weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        if bias:
            for name, part in zip(_PROJECTIONS, attention.in_proj_bias.chunk(3), strict=True):
                getattr(self, name).bias = nn.Parameter(part.detach().clone(), attention.in_proj_bias.requires_grad)
        self.out_proj.load_state_dict(attention.out_proj.state_dict())
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        **_: bool,
    ) -> tuple[Tensor, None]:
        """Attend, with the arguments of ``torch.nn.MultiheadAttention`` (batched); attention weights are never returned."""
        if not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        q, k, v = self._split(self.q_proj(query)), self._split(self.k_proj(key)), self._split(self.v_proj(value))
        mask = _additive_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def separate_attention(model: nn.Module) -> list[str]:
    """Replace every ``nn.MultiheadAttention`` in ``model``, in place; returns the paths of the new modules.

    Those that append keys of their own stay as they are.
    """
    return _replace(model, nn.MultiheadAttention, lambda module: SeparateAttention(module) if _separable(module) else None)


def join_attention(model: nn.Module) -> list[str]:
    """Undo ``separate_attention``, in place; returns the paths of the restored modules. Attention that was pruned stays separate."""
    return _replace(model, SeparateAttention, _joined)


def _replace(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module | None]) -> list[str]:
    done = []
    for path, module in list(model.named_modules()):
        new = make(module) if isinstance(module, kind) and path else None
        if new is not None:
            model.set_submodule(path, new)
            done.append(path)
    return done


def _separable(attention: nn.MultiheadAttention) -> bool:
    return attention.bias_k is None and not attention.add_zero_attn


def _weights(attention: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    """Weights of q, k and v, (E, width of the input) each."""
    if attention.in_proj_weight is not None:
        return attention.in_proj_weight.chunk(3)
    return attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight


def _joined(separate: SeparateAttention) -> nn.MultiheadAttention | None:
    projections = [getattr(separate, name) for name in _PROJECTIONS]
    width = separate.out_proj.out_features
    if any(layer.out_features != width for layer in projections) or separate.q_proj.in_features != width:
        return None
    bias = separate.q_proj.bias is not None
    kdim, vdim = separate.k_proj.in_features, separate.v_proj.in_features
    joined = nn.MultiheadAttention(
        width, separate.heads, separate.dropout, bias, kdim=kdim, vdim=vdim, batch_first=separate.batch_first
    )  # fmt: skip
    if joined.head_dim**-0.5 != separate.scale:
        return None
    with torch.no_grad():
        for target, layer in zip(_weights(joined), projections, strict=True):
            target.copy_(layer.weight)
        if bias:
            joined.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
    joined.out_proj.load_state_dict(separate.out_proj.state_dict())
    return joined.train(separate.training)


def _additive_mask(mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """torch's two masks (True or -inf: not attended) as one to add to the logits (N, heads, L, S)."""
    parts = []
    if mask is not None:
        parts.append(_as_added(mask, q).unflatten(0, q.shape[:2]) if mask.dim() == 3 else _as_added(mask, q))
    if padding is not None:
        parts.append(_as_added(padding, q)[:, None, None])
    return sum(parts[1:], parts[0]) if parts else None


def _as_added(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -torch.inf)
