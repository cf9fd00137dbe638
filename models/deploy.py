"""The deployed function as a torch module: uint8 image in, class map out, equal to mmseg's own test path."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segc.core.contract import Contract, Size
from segc.core.errors import UserError
from segc.models.contract import contract_from_config
from segc.models.factorization import fix_first_guess

__all__ = ["DeployModule", "contract_from_config"]

# Whole grey levels, as OpenCV's resize of uint8 images gives them: equal to it when an image is halved, else one level apart in about a
# tenth of the pixels (its integer arithmetic is coarser). Ties are frequent (weights of 1/2, 1/4) and go up, as in OpenCV; the
# excess over 0.5 keeps every runtime on that side whatever the order of its sums.
_HALF_UP = 0.5 + 2**-10
_FEW_CLASSES = 16


class DeployModule(nn.Module):
    """Preprocessing, network and postprocessing of a contract in one module.

    forward: ``images`` uint8 (N, H, W, 3), RGB -> class map (N, H, W) uint8 (int32 above 256 classes), or float32 logits or
    probabilities (N, K, H, W), at the images' own size. It follows mmseg's ``EncoderDecoder.predict``: the logits are resized to the
    network's input, the padding is cut off, then they are resized to the image. A slide contract makes it the function
    of one window. A head with one channel (K = 2) gives logits (0, z - logit(threshold)), whose argmax is mmseg's
    ``sigmoid(z) > threshold``, and probabilities (1 - sigmoid(z), sigmoid(z)).

    Args:
        model: an mmseg ``EncoderDecoder`` (or a cascade) in eval mode; what it draws at random in every call is drawn once here.
        contract: what to do before and after it.

    Raises:
        UserError: the contract wants probabilities of a head that gives scores.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, contract: Contract) -> None:
        super().__init__()
        fix_first_guess(model)
        self.model: Any = model
        self.contract = contract
        preprocessor: Any = model.data_preprocessor
        self.bgr = not preprocessor._channel_conversion
        self.normalises = contract.mean != (0.0,) * 3 or contract.std != (1.0,) * 3
        order = slice(None, None, -1 if self.bgr else 1)
        self.register_buffer("mean", torch.tensor(contract.mean[order]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(contract.std[order]).view(1, 3, 1, 1))
        test = getattr(preprocessor, "test_cfg", None) or {}
        self.pad_value = float(getattr(preprocessor, "pad_val", 0))
        self.pad_size: Size | None = tuple(test["size"]) if test.get("size") else None
        head: Any = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
        _check_output(head, contract)
        self.binary = getattr(head, "out_channels", None) == 1
        self.threshold = float(getattr(head, "threshold", None) or 0.5) if self.binary else 0.5
        self.head_resizes = _has_standard_predict(head) and head is model.decode_head

    def forward(self, images: Tensor) -> Tensor:
        """The contract's output for uint8 images (N, H, W, 3)."""
        return self.decide(self.raw_logits(images))

    def raw_logits(self, images: Tensor) -> Tensor:
        """The head's logits (N, channels, H, W) at the images' size, before anything is decided."""
        height, width = images.shape[1], images.shape[2]
        inputs = self.preprocess(images)
        size = inputs.shape[2:]
        padded = self.pad(inputs)
        logits = self.encode_decode(padded)
        if padded is not inputs:
            logits = logits[:, :, : size[0], : size[1]]
        return self._resize_back(logits, height, width)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB -> the normalised float input (N, 3, h, w) of the network, not padded."""
        # Cast first: TensorRT takes uint8 into a Cast only.
        x = images.float()
        if self.bgr:
            x = x.index_select(3, torch.tensor([2, 1, 0], device=images.device))
        x = x.permute(0, 3, 1, 2)
        if self.contract.resize.in_graph:
            for size in self.contract.resize.steps(x.shape[2], x.shape[3]):
                x = F.interpolate(x, size, mode="bilinear", align_corners=False)
                x = (x + _HALF_UP).floor()
        return (x - self.mean) / self.std if self.normalises else x

    def pad(self, inputs: Tensor) -> Tensor:
        """Pad at the bottom and the right, after the normalisation, as mmseg's ``stack_batch``."""
        height, width = inputs.shape[2], inputs.shape[3]
        if self.pad_size is not None:
            below, right = max(self.pad_size[0] - height, 0), max(self.pad_size[1] - width, 0)
        else:
            below, right = -height % self.contract.size_divisor, -width % self.contract.size_divisor
        if isinstance(below, int) and isinstance(right, int) and not (below or right):
            return inputs
        return F.pad(inputs, (0, right, 0, below), value=self.pad_value)

    def encode_decode(self, inputs: Tensor) -> Tensor:
        """Logits at the size of the network's input: mmseg's ``EncoderDecoder.encode_decode``."""
        if self.head_resizes:
            logits = self.model.decode_head(self.model.extract_feat(inputs))
            return F.interpolate(logits, inputs.shape[2:], mode="bilinear", align_corners=self.contract.align_corners)
        size = inputs.shape[2:]
        meta = {"img_shape": size, "pad_shape": size, "ori_shape": size, "batch_input_shape": size}
        return self.model.encode_decode(inputs, [meta] * inputs.shape[0])

    def class_logits(self, logits: Tensor) -> Tensor:
        """Logits with one channel a class (N, K, H, W), whose argmax is mmseg's decision."""
        if not self.binary:
            return logits
        shifted = logits - math.log(self.threshold / (1 - self.threshold))
        return torch.cat([torch.zeros_like(shifted), shifted], 1)

    def decide(self, logits: Tensor) -> Tensor:
        """The contract's output of raw logits (N, channels, H, W)."""
        if self.contract.output == "probabilities":
            return torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1) if self.binary else logits.softmax(1)
        logits = self.class_logits(logits)
        if self.contract.output == "logits":
            return logits
        return _largest_class(logits).to(torch.uint8 if self.contract.num_classes <= 256 else torch.int32)

    def _resize_back(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Logits at the image's size; nothing to do for a graph that resizes nothing."""
        resized = self.contract.resize.in_graph and self.contract.resize.resizes
        if not resized or tuple(logits.shape[2:]) == (height, width):
            return logits
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=self.contract.align_corners)


def _largest_class(logits: Tensor) -> Tensor:
    """Index of the largest of the logits (N, K, H, W): (N, H, W), by the axis that CPU runtimes search fastest.

    Measured at 512x512: with few classes OpenVINO takes two thirds of the time over planes, with 150 ONNX Runtime takes a third over
    neighbours in memory. Without the flattening ONNX Runtime would undo the permutation, and OpenVINO keep a layout it is slow in.
    """
    size = (logits.shape[0], logits.shape[2], logits.shape[3])
    if logits.shape[1] <= _FEW_CLASSES:
        return logits.flatten(2).argmax(1).view(size)
    return logits.permute(0, 2, 3, 1).flatten(0, 2).argmax(-1).view(size)


def _check_output(head: nn.Module, contract: Contract) -> None:
    if contract.output == "probabilities" and not getattr(head, "gives_logits", True):
        raise UserError(
            f"{type(head).__name__} has no probabilities to give: it scores a class by summing over queries the class's probability times "
            "the mask's. The scores of a pixel do not sum to 1, and a softmax of them means nothing.",
            "--output logits for the scores as they are, or --output argmax.",
        )


def _has_standard_predict(head: nn.Module) -> bool:
    """True when the head's ``predict`` is mmseg's own: forward, then one bilinear resize."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    own = (BaseDecodeHead.predict, BaseDecodeHead.predict_by_feat)
    return isinstance(head, BaseDecodeHead) and (type(head).predict, type(head).predict_by_feat) == own
