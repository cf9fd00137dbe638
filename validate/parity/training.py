"""The stages of the training pipeline: mmseg's own transforms, data preprocessor, network and postprocessing on the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.models.contract import test_pipeline
from segc.models.deploy import DeployModule
from segc.models.network import Network, quietly
from segc.validate.parity.trace import Array, Box, Trace, average


class TrainingPipeline:
    """The network as mmseg tests it; see ``segc.validate.parity.trace``. ``std``: of the channels as the network reads them.

    Args:
        network: the checkpoint.
        contract: of the graph it is compared with: how the decision of a head with one channel is written as two logits.

    Raises:
        UserError: its config has no test pipeline that loads an image.
    """

    def __init__(self, network: Network, contract: Contract) -> None:
        self.model: Any = network.model
        self._module = DeployModule(network.model, contract)
        self.std = self._module.std.flatten().tolist()
        self._load, self._transforms = _transforms(network)
        self.steps = {
            "decode": self._decoded,
            "resize": self._resized,
            "normalize": self._normalized,
            "windows": self._windows,
            "logits": self._logits,
            "upsample": self._upsampled,
            "argmax": self._classes,
        }

    def _decoded(self, trace: Trace) -> Array:
        return np.asarray(cv2.cvtColor(self._load({"img_path": str(trace.path)})["img"], cv2.COLOR_BGR2RGB))

    def _resized(self, trace: Trace) -> Array:
        results = {"img": cv2.cvtColor(trace.decode, cv2.COLOR_RGB2BGR), "img_shape": trace.size, "ori_shape": trace.size}
        for transform in self._transforms:
            results = transform(results)
        return np.asarray(results["img"][..., ::-1], np.float32)

    def _normalized(self, trace: Trace) -> Array:
        from mmseg.structures import SegDataSample

        bgr = torch.from_numpy(np.ascontiguousarray(trace.resize[..., ::-1].transpose(2, 0, 1)))
        height, width = bgr.shape[1:]
        data = {"inputs": [bgr], "data_samples": [SegDataSample(metainfo=self._meta(trace))]}
        return np.ascontiguousarray(self.model.data_preprocessor(data)["inputs"][0, :, :height, :width].numpy())

    def _windows(self, trace: Trace) -> list[Box]:
        """Where mmseg's ``slide_inference`` puts its windows: each is a view into the image, which tells its place."""
        inputs = self._padded(trace)
        if self.model.test_cfg.get("mode", "whole") == "whole":
            return [(0, 0, *trace.normalize.shape[1:])]
        boxes = []

        def record(crop: Tensor, _: Any) -> Tensor:
            top, left = divmod(int(crop.storage_offset()), inputs.shape[3])
            boxes.append((top, left, top + crop.shape[2], left + crop.shape[3]))
            return crop.new_zeros((1, self.model.out_channels, *crop.shape[2:]))

        with self._encoding(record):
            self.model.slide_inference(inputs, [self._meta(trace)])
        return boxes

    @torch.inference_mode()
    def _logits(self, trace: Trace) -> list[Array]:
        inputs, whole = self._padded(trace), len(trace.windows) == 1
        crops = [inputs] if whole else [inputs[:, :, y1:y2, x1:x2] for y1, x1, y2, x2 in trace.windows]
        return [self._module.class_logits(self._network(crop, trace))[0].numpy() for crop in crops]

    def _network(self, crop: Tensor, trace: Trace) -> Tensor:
        if self._module.head_resizes:
            return self.model.decode_head(self.model.extract_feat(crop))
        return self.model.encode_decode(crop, [{**self._meta(trace), "img_shape": crop.shape[2:], "pad_shape": crop.shape[2:]}])

    @torch.inference_mode()
    def _upsampled(self, trace: Trace) -> Array:
        """mmseg's ``predict_by_feat`` for every window, their average, and its ``postprocess_result``."""
        height, width = self._padded(trace).shape[2:]
        padded = (height, width)
        if trace.logits[0].shape[1:] == trace.size != padded:
            return np.asarray(trace.logits[0])  # a graph that gives its logits at the image's size has left nothing to resize
        boxes: list[Box] = [(0, 0, *padded)] if len(trace.windows) == 1 else trace.windows
        maps = [self._at_window(logits, box) for logits, box in zip(trace.logits, boxes, strict=True)]
        return self._postprocessed(average(maps, boxes, padded), trace).seg_logits.data.numpy()

    def _at_window(self, logits: Array, box: Box) -> Array:
        size = torch.Size((box[2] - box[0], box[3] - box[1]))
        if not self._module.head_resizes:
            return logits
        return self.model.decode_head.predict_by_feat(torch.from_numpy(logits)[None], [{"img_shape": size}])[0].numpy()

    @torch.inference_mode()
    def _classes(self, trace: Trace) -> Array:
        return self._postprocessed(trace.upsample, trace).pred_sem_seg.data[0].numpy()

    def _postprocessed(self, logits: Array, trace: Trace) -> Any:
        """mmseg's ``postprocess_result``: padding off, resize to the image, decision; logits of the image's size are decided on only."""
        from mmseg.structures import SegDataSample

        below, right = (0, 0) if logits.shape[1:] == trace.size else np.subtract(logits.shape[1:], trace.normalize.shape[1:])
        meta = {**self._meta(trace), "padding_size": [0, int(right), 0, int(below)]}
        return self.model.postprocess_result(torch.from_numpy(logits)[None], [SegDataSample(metainfo=meta)])[0]

    def _padded(self, trace: Trace) -> Tensor:
        """The network's input as the data preprocessor pads it."""
        from mmseg.utils import stack_batch

        inputs = torch.from_numpy(trace.normalize)
        preprocessor = self.model.data_preprocessor
        test = preprocessor.test_cfg
        if not test:
            return inputs[None].clone()
        how = {"size": test.get("size"), "size_divisor": test.get("size_divisor")}
        return stack_batch([inputs], **how, pad_val=preprocessor.pad_val)[0]

    def _meta(self, trace: Trace) -> dict[str, Any]:
        return {"img_shape": trace.resize.shape[:2], "ori_shape": trace.size}

    @contextmanager
    def _encoding(self, function: Any) -> Iterator[None]:
        """mmseg's inference with another function in the place of the network."""
        self.model.encode_decode = function
        try:
            yield
        finally:
            del self.model.encode_decode


def _transforms(network: Network) -> tuple[Any, list[Any]]:
    """(the step that loads an image, the steps that change it) of the test pipeline."""
    with quietly():
        import mmseg.datasets.transforms  # noqa: F401  (fills the registry)
        from mmseg.registry import TRANSFORMS

        steps = [step for step in test_pipeline(network.cfg) if not str(step["type"]).startswith("Pack")]
        loads = [step for step in steps if str(step["type"]).startswith("LoadImage")]
        if not loads:
            raise UserError(
                "the checkpoint's config has no test pipeline that loads an image: there is no training pipeline to compare with."
            )
        changes = [step for step in steps if not str(step["type"]).startswith("Load")]
        return TRANSFORMS.build(loads[0]), [TRANSFORMS.build(step) for step in changes]
