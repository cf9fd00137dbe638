"""Mask2Former's head for mmseg, which takes the config of mmseg's own head of that name: its configs and checkpoints serve as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# mmseg's class of this name, which needs mmdet, must be registered before ours takes its place.
import mmseg.models.decode_heads.mask2former_head  # noqa: F401
from mmseg.registry import MODELS
from torch import Tensor

from segc.core.errors import UserError
from segc.models.mask2former.decoder import MaskedDecoderHead
from segc.models.mask2former.pixel_decoder import DeformablePixelDecoder

_STRIDES = (4, 8, 16, 32)
_MATCHED = {"ClassificationCost": "loss_cls", "CrossEntropyLossCost": "loss_mask", "DiceCost": "loss_dice"}


@MODELS.register_module(force=True)
class Mask2FormerHead(MaskedDecoderHead):
    """Maps at strides 4, 8, 16 and 32 -> scores of the classes: sums over queries of class times mask probability.

    Args:
        in_channels: of the four maps, the finest first.
        num_classes: without "no object".
        pixel_decoder, transformer_decoder, loss_cls, loss_mask, loss_dice, train_cfg: as in mmseg's configs; of the last the number of
            points and the costs of the matching, which must weigh what the losses weigh.
        feat_channels: of tokens and queries.
        out_channels: of the masks' features.
        num_queries, ignore_index, init_cfg: as in mmseg.
        others: what mmseg's configs say beside this; refused where it is not what this head does.

    Raises:
        UserError: the config describes another network or another loss.
    """

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        pixel_decoder: Mapping[str, Any],
        transformer_decoder: Mapping[str, Any],
        loss_cls: Mapping[str, Any],
        loss_mask: Mapping[str, Any],
        loss_dice: Mapping[str, Any],
        train_cfg: Mapping[str, Any] | None = None,
        feat_channels: int = 256,
        out_channels: int = 256,
        num_queries: int = 100,
        ignore_index: int = 255,
        init_cfg: Any = None,
        **others: Any,
    ) -> None:
        _refuse_others(others, pixel_decoder, feat_channels)
        losses = {"loss_cls": loss_cls, "loss_mask": loss_mask, "loss_dice": loss_dice}
        encoder, decoder = pixel_decoder["encoder"], transformer_decoder["layer_cfg"]
        super().__init__(
            num_classes,
            num_levels=len(in_channels) - 1,
            channels=feat_channels,
            out_channels=out_channels,
            num_queries=num_queries,
            num_layers=transformer_decoder["num_layers"],
            num_heads=decoder["cross_attn_cfg"]["num_heads"],
            hidden=decoder["ffn_cfg"]["feedforward_channels"],
            loss_decode=_loss(losses, train_cfg or {}),
            ignore_index=ignore_index,
            init_cfg=init_cfg,
        )
        attention = encoder["layer_cfg"]["self_attn_cfg"]
        self.pixel_decoder = DeformablePixelDecoder(
            list(in_channels),
            feat_channels,
            out_channels,
            num_layers=encoder["num_layers"],
            num_heads=attention["num_heads"],
            num_points=attention["num_points"],
            hidden=encoder["layer_cfg"]["ffn_cfg"]["feedforward_channels"],
            norm=dict(pixel_decoder["norm_cfg"]),
        )

    def init_weights(self) -> None:
        """Random weights as mmdet draws them."""
        self.pixel_decoder.init_weights()
        super().init_weights()

    def pixels(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``DeformablePixelDecoder``."""
        return self.pixel_decoder(list(inputs))


def _refuse_others(others: Mapping[str, Any], pixel_decoder: Mapping[str, Any], channels: int) -> None:
    """Refuse what a config of mmseg can ask of mmdet and this head does not do."""
    encoding = {"num_feats": channels // 2, "normalize": True}
    done = {
        "strides": list(_STRIDES),
        "num_transformer_feat_level": len(_STRIDES) - 1,
        "align_corners": False,
        "enforce_decoder_input_project": False,
        "positional_encoding": encoding,
    }
    told = {
        **others,
        "pixel_decoder.type": pixel_decoder.get("type"),
        "pixel_decoder.positional_encoding": pixel_decoder["positional_encoding"],
    }
    done |= {"pixel_decoder.type": "mmdet.MSDeformAttnPixelDecoder", "pixel_decoder.positional_encoding": encoding}
    for name, value in told.items():
        value = dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, list | tuple) else value
        if name not in done or value != done[name]:
            expected = f"only {done[name]!r} is supported" if name in done else "this head does not know it"
            raise UserError(f"Mask2FormerHead was given {name}={value!r}; {expected}.")


def _loss(losses: Mapping[str, Mapping[str, Any]], train: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``MaskClassificationLoss`` from mmseg's."""
    weights = {name: float(cfg.get("loss_weight", 1.0)) for name, cfg in losses.items()}
    for cost in (train.get("assigner") or {}).get("match_costs", ()):
        loss = _MATCHED.get(cost["type"].rpartition(".")[2])
        if loss is None or float(cost.get("weight", 1.0)) != weights[loss]:
            raise UserError(
                f"the matching cost {cost['type']} weighs {cost.get('weight', 1.0)}; it must be one of a loss, and weigh the same."
            )
    names = {"num_points": "num_points", "oversample_ratio": "oversample_ratio", "importance_sample_ratio": "importance_ratio"}
    return {
        "class_weight": weights["loss_cls"],
        "mask_weight": weights["loss_mask"],
        "dice_weight": weights["loss_dice"],
        "no_object_weight": float((losses["loss_cls"].get("class_weight") or [1.0])[-1]),
        **{ours: train[theirs] for theirs, ours in names.items() if theirs in train},
    }
