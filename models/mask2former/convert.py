"""Published Mask2Former weights (detectron2's names), and the Swin or ResNet they start from -> mmseg's names, which are ours."""

from __future__ import annotations

import re

from torch import Tensor

from segc.models.detectron2 import resnet_name
from segc.models.renaming import renamed

_FFN = ((r"\.linear1\.", ".ffn.layers.0.0."), (r"\.linear2\.", ".ffn.layers.1."))
_PIXELS = (
    (r"^input_proj\.(\d)\.0\.", r"input_convs.\1.conv."),
    (r"^input_proj\.(\d)\.1\.", r"input_convs.\1.gn."),
    (r"^transformer\.level_embed$", "level_encoding.weight"),
    (r"^transformer\.", ""),
    (r"\.norm1\.", ".norms.0."),
    (r"\.norm2\.", ".norms.1."),
    (r"^mask_features\.", "mask_feature."),
    (r"^(adapter|layer)_1\.norm\.", r"\1_1.gn."),
    (r"^(adapter|layer)_1\.(weight|bias)", r"\1_1.conv.\2"),
    (r"^adapter_1\.", "lateral_convs.0."),
    (r"^layer_1\.", "output_convs.0."),
    *_FFN,
)
_QUERIES = (
    (r"^transformer_cross_attention_layers\.(\d+)\.multihead_attn\.", r"transformer_decoder.layers.\1.cross_attn.attn."),
    (r"^transformer_cross_attention_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.0."),
    (r"^transformer_self_attention_layers\.(\d+)\.self_attn\.", r"transformer_decoder.layers.\1.self_attn.attn."),
    (r"^transformer_self_attention_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.1."),
    (r"^transformer_ffn_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.2."),
    (r"^transformer_ffn_layers\.(\d+)\.", r"transformer_decoder.layers.\1."),
    (r"^decoder_norm\.", "transformer_decoder.post_norm."),
    (r"^class_embed\.", "cls_embed."),
    (r"^static_query\.", "query_feat."),
    (r"^mask_embed\.layers\.(\d)\.", lambda found: f"mask_embed.{2 * int(found[1])}."),
    *_FFN,
)
_SWIN = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
# The weights of the loss, the classifier of ImageNet, and masks that are computed.
_UNUSED = re.compile(r"^criterion\.|^(backbone\.)?(head|fc|norm)\.|\.attn_mask$")
_MERGE = re.compile(r"^(?:backbone\.)?layers\.\d\.downsample\.(reduction|norm)\.")
# Where the four pixels that a merging layer joins stand: down first in the published weights, right first in ours.
_TURNED = [0, 2, 1, 3]


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official code, or of a Swin or ResNet trained on ImageNet, -> ours; our own names stay."""
    return {_own(name): _merged(name, tensor) for name, tensor in state.items() if not _UNUSED.search(name)}


def _own(name: str) -> str:
    if name.startswith("decode_head."):
        return name
    if name.startswith("sem_seg_head.predictor."):
        return "decode_head." + renamed(name.removeprefix("sem_seg_head.predictor."), _QUERIES)
    if name.startswith("sem_seg_head."):
        return "decode_head.pixel_decoder." + renamed(name.removeprefix("sem_seg_head.").removeprefix("pixel_decoder."), _PIXELS)
    name = name.removeprefix("backbone.")
    swin = name.startswith(("patch_embed.", "layers."))
    return "backbone." + (renamed(name, _SWIN) if swin else resnet_name(name))


def _merged(name: str, tensor: Tensor) -> Tensor:
    """Weights of a Swin's merging layer with the channels in our order: by channel, then pixel, not by pixel, then channel."""
    if not _MERGE.match(name):
        return tensor
    return tensor.unflatten(-1, (4, -1))[..., _TURNED, :].transpose(-1, -2).flatten(-2)
