"""After every export the graph is run in ONNX Runtime against the torch network on real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from segc.core.contract import INPUT, Contract, Size
from segc.core.errors import CheckFailed, UserError
from segc.core.files import sha256_files
from segc.core.images import Image, read_image
from segc.core.progress import track
from segc.core.rows import package_version
from segc.export.surgery import decided_on
from segc.models.deploy import DeployModule
from segc.runtime.segmenter import network_image, resize_image, windows

DEFAULT_IMAGES = 4
_TWIN = "segc_verify_logits"


@dataclass(frozen=True)
class Limits:
    """When a graph counts as equal to its network.

    logit_error: largest difference of any logit (or probability), as a share of the largest logit. agreement: least share of pixels
    with the same class.
    """

    logit_error: float = 1e-3
    agreement: float = 0.999


def verify(model: ModelProto, module: DeployModule, images: Sequence[Path], limits: Limits | None = None) -> dict[str, Any]:
    """Compare a graph with the torch module it was exported from; JSON-ready numbers and their conditions.

    Each image is brought to the graph's input size (a slide graph gets windows of it); open axes are tried at two sizes and batches.
    ``mmseg_pixel_agreement`` compares with mmseg's own test path (resize by OpenCV); it is told, and decides nothing.

    Raises:
        UserError: no images.
        CheckFailed: the graph disagrees with torch beyond ``limits``, or cannot be run.
    """
    if not images:
        raise UserError("there are no images to check the exported graph on.", "Give real images: --images FOLDER")
    limits = limits or Limits()
    graph = _Graph(model, module.contract)
    totals = _Totals()
    sizes: list[list[int]] = []
    for batch in track(list(_batches(images, module.contract)), "checking the graph against torch"):
        sizes.append(list(batch.shape[:3]))
        _compare(graph, module, batch, totals)
    parity = {**totals.summary(), "n_images": len(images), "conditions": _conditions(images, sizes, limits)}
    if not (totals.relative_error <= limits.logit_error and totals.agreement >= limits.agreement):
        raise CheckFailed(
            f"the exported graph disagrees with torch on {len(images)} images: largest logit error {totals.relative_error:.2e} of the "
            f"largest logit (allowed {limits.logit_error:.0e}), {100 * totals.agreement:.3f} % of the pixels agree "
            f"(needed {100 * limits.agreement:g} %). Nothing was written. Try another --exporter or --opset, or --no-simplify."
        )
    return parity


def pick(images: Sequence[Path], count: int) -> list[Path]:
    """``count`` images spread evenly over the list: neighbours in a video look alike."""
    if len(images) <= count:
        return list(images)
    return [images[round(index * (len(images) - 1) / max(count - 1, 1))] for index in range(count)]


@dataclass
class _Totals:
    pixels: int = 0
    same: int = 0
    mmseg_pixels: int = 0
    mmseg_same: int = 0
    error: float = 0.0
    scale: float = 0.0

    @property
    def relative_error(self) -> float:
        return self.error / self.scale if self.scale > 0 else float("nan")

    @property
    def agreement(self) -> float:
        return self.same / self.pixels

    def summary(self) -> dict[str, Any]:
        numbers = {
            "max_abs_logit_error": self.error,
            "logit_scale": self.scale,
            "relative_logit_error": self.relative_error,
            "pixel_agreement": self.agreement,
            "mmseg_pixel_agreement": self.mmseg_same / self.mmseg_pixels if self.mmseg_pixels else None,
        }
        return {key: value if value is None or np.isfinite(value) else None for key, value in numbers.items()}


class _Graph:
    """The graph as it ships, and its twin that also gives the logits under the argmax."""

    def __init__(self, model: ModelProto, contract: Contract) -> None:
        self.contract = contract
        twin = _with_logits(model) if contract.output == "argmax" else None
        try:
            self.shipped = cpu_session(model)
            self.twin = cpu_session(twin) if twin is not None else None
        except Exception as error:
            raise CheckFailed(f"ONNX Runtime does not load the exported graph: {_first_line(error)}") from error

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """(class map of the shipped graph, its logits or probabilities N,K,H,W)."""
        try:
            found = self.shipped.run(None, {INPUT: images})[0]
            logits = found if self.twin is None else as_maps(self.twin.run([_TWIN], {INPUT: images})[0], found.shape[1:])
        except Exception as error:
            size = "x".join(map(str, images.shape[:3]))
            other = "" if None not in (self.contract.batch, self.contract.height) else " Give a fixed --input-size and --batch."
            raise CheckFailed(f"ONNX Runtime cannot run the exported graph on {size} images.{other} ({_first_line(error)})") from error
        return (found if self.twin is not None else logits.argmax(1)), logits


def as_maps(logits: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits (N, K, H, W), also of a network that gives them as products (N, K, H W), whose reshaping was walked over."""
    flat = logits.ndim == 3 and logits.shape[2] == size[0] * size[1]
    return logits.reshape(*logits.shape[:2], *size) if flat else logits


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def cpu_session(model: ModelProto, disabled: Sequence[str] = ()) -> Any:
    """A graph in ONNX Runtime on the CPU, without the optimizers named in ``disabled``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=[*disabled]
    )


def _with_logits(model: ModelProto) -> ModelProto:
    """A copy of the graph whose second output is what its argmax decides on: the logits (N, K, H, W)."""
    name = decided_on(model)
    if name is None:
        raise CheckFailed("the exported graph has no ArgMax above its output: its logits cannot be checked.")
    twin = ModelProto()
    twin.CopyFrom(model)
    twin.graph.node.append(onnx.helper.make_node("Identity", [name], [_TWIN]))
    twin.graph.output.append(onnx.helper.make_tensor_value_info(_TWIN, onnx.TensorProto.FLOAT, None))
    return twin


def _batches(images: Sequence[Path], contract: Contract) -> Iterator[NDArray[np.uint8]]:
    """Inputs of the graph: every image once, in batches of the graph's size; open axes get a second value too."""
    fitted = [_fit(read_image(path), contract) for path in images]
    if contract.static_size is None:
        yield from (image[None] for image in fitted)
        first = fitted[0]
        fitted = [resize_image(first, (first.shape[0] * 3 // 4 + 1, first.shape[1] * 5 // 8 + 3))] * 2
    size = contract.batch or min(2, len(fitted))
    for start in range(0, len(fitted), size):
        group = fitted[start : start + size]
        if contract.batch is not None:
            group += [group[-1]] * (size - len(group))
        yield np.stack(group)


def _fit(image: Image, contract: Contract) -> Image:
    """The image at the graph's input size; for a slide graph the middle window of the resized image."""
    crop = contract.inference.crop_size
    if crop is not None:
        image = resize_image(image, _at_least(contract.resize.network_size(*image.shape[:2]), crop))
        boxes = list(windows((image.shape[0], image.shape[1]), crop, contract.inference.stride or crop))
        top, left, bottom, right = boxes[len(boxes) // 2]
        return image[top:bottom, left:right]
    size = contract.static_size
    return image if size is None or size == image.shape[:2] else resize_image(image, size)


def _at_least(size: Size, least: Size) -> Size:
    return max(size[0], least[0]), max(size[1], least[1])


@torch.no_grad()
def _compare(graph: _Graph, module: DeployModule, images: NDArray[np.uint8], totals: _Totals) -> None:
    tensor = torch.from_numpy(images)
    raw = module.raw_logits(tensor)
    expected_map = module.decide(raw)
    expected = expected_map if module.contract.output != "argmax" else module.class_logits(raw)
    if module.contract.output != "argmax":
        expected_map = expected.argmax(1)
    found_map, found = graph.run(images)
    if found.shape != tuple(expected.shape):
        raise CheckFailed(f"the exported graph gives {found.shape} where torch gives {tuple(expected.shape)}.")
    totals.error = float(np.fmax(totals.error, _largest(found - expected.numpy())))
    totals.scale = max(totals.scale, float(expected.abs().max()))
    totals.pixels += found_map.size
    totals.same += int((found_map == expected_map.numpy()).sum())
    if module.contract.inference.mode == "whole":
        mmseg = mmseg_class_map(module, images)
        totals.mmseg_pixels += mmseg.size
        totals.mmseg_same += int((found_map == mmseg).sum())


def _largest(difference: NDArray[np.float32]) -> float:
    """Largest absolute value; infinite when there is a NaN, so that it can never pass."""
    largest = float(np.abs(difference).max())
    return largest if np.isfinite(largest) else float("inf")


@torch.no_grad()
def mmseg_class_map(module: DeployModule, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Class maps (N,H,W) of mmseg's own test path: OpenCV resize of the uint8 image, data preprocessor, ``EncoderDecoder.predict``."""
    from mmseg.structures import SegDataSample

    size = (images.shape[1], images.shape[2])
    inner = module.contract.resize.network_size(*size)
    seen = [network_image(image, module.contract.resize) for image in images]
    inputs = [torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))) for image in seen]
    samples = [SegDataSample(metainfo={"img_shape": inner, "ori_shape": size}) for _ in inputs]
    results = module.model.test_step({"inputs": inputs, "data_samples": samples})
    return np.stack([result.pred_sem_seg.data[0].numpy().astype(np.int64) for result in results])


def _conditions(images: Sequence[Path], sizes: list[list[int]], limits: Limits) -> dict[str, Any]:
    return {
        "reference": f"torch {package_version('torch')} fp32",
        "runtime": f"onnxruntime {package_version('onnxruntime')} CPU",
        "input_shapes": sizes,
        "images_sha256": sha256_files(images),
        "limits": asdict(limits),
    }
