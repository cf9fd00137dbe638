"""From an image of any size to its class map: host resize, whole or slide inference, and the way back, once for every backend.

The order of steps is mmseg's: resize, (windows, average), resize the logits to the image, argmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.core.contract import Contract, Resize, Size
from segc.core.errors import UserError
from segc.runtime.images import Image
from segc.runtime.runner import Runner, run_all

Logits = NDArray[np.float32]
ClassMap = NDArray[Any]


class Segmenter:
    """Class maps of images of any size through a ``Runner``.

    A static graph gets the image resized on the host (bilinear, as mmcv's ``imresize``), and its class map is brought back by nearest
    neighbour (logits and probabilities: bilinear); ``notices`` says so, because it may cost accuracy at borders.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.contract = runner.contract
        self._notices: dict[str, None] = {}

    @property
    def notices(self) -> list[str]:
        """What the host did that the graph did not, one sentence each, without repetition."""
        return list(self._notices)

    def class_map(self, image: Image) -> ClassMap:
        """Class index of every pixel of uint8 RGB (H, W, 3): (H, W), uint8 up to 256 classes."""
        return self.class_maps([image])[0]

    def class_maps(self, images: Sequence[Image]) -> list[ClassMap]:
        """Class maps of several images; those that fill the graph's batch run together."""
        if self.contract.inference.mode == "slide" or self.contract.output != "argmax":
            return [self._decide(self.logits(image)) for image in images]
        return list(self._whole_maps(images))

    def logits(self, image: Image) -> Logits:
        """Logits (or probabilities) of one image at its own size: float32 (K, H, W).

        Raises:
            UserError: the graph gives a class map only.
        """
        if self.contract.output == "argmax":
            raise UserError("this graph gives class maps, not logits.", "Export it with --output logits.")
        size = image.shape[:2]
        if self.contract.inference.mode == "slide":
            scaled = _host_resize(image, self.contract.resize)
            found = slide_logits(self.runner, scaled)
        else:
            found = self.runner.run(self._padded([self._fit(image)]))[0]
        return resize_logits(found, size, self.contract.align_corners)

    def _decide(self, logits: Logits) -> ClassMap:
        return logits.argmax(0).astype(self.contract.class_dtype)

    def _whole_maps(self, images: Sequence[Image]) -> Iterator[ClassMap]:
        groups = list(_groups(images, self.contract))
        outputs = run_all(self.runner, (self._padded([self._fit(image) for image in group]) for group in groups))
        for group, found in zip(groups, outputs, strict=True):
            yield from (resize_map(found[index], image.shape[:2]) for index, image in enumerate(group))

    def _fit(self, image: Image) -> Image:
        size = self.contract.static_size
        if size is None or size == image.shape[:2]:
            return image
        self._notices.setdefault(
            f"images of other sizes are resized to the graph's {size[0]}x{size[1]} on the host and their class maps back (nearest)"
        )
        return resize_image(image, size)

    def _padded(self, images: list[Image]) -> NDArray[np.uint8]:
        """Images as a batch; a static batch that is not full is filled with its last image."""
        missing = (self.contract.batch or len(images)) - len(images)
        return np.stack(images + [images[-1]] * missing)


def network_inputs(image: Image, contract: Contract) -> list[Image]:
    """What the graph is fed for one image: the image at the graph's size, or the windows of slide inference."""
    if contract.inference.crop_size is None or contract.inference.stride is None:
        size = contract.static_size
        return [image if size in (None, image.shape[:2]) else resize_image(image, size)]
    scaled = _host_resize(image, contract.resize)
    boxes = windows((scaled.shape[0], scaled.shape[1]), contract.inference.crop_size, contract.inference.stride)
    return [_fill(scaled[y1:y2, x1:x2], contract) for y1, x1, y2, x2 in boxes]


def slide_logits(runner: Runner, image: Image) -> Logits:
    """Average of the logits of overlapping windows (mmseg ``EncoderDecoder.slide_inference``): float32 (K, H, W).

    Windows start every ``stride`` and are moved inside at the far borders. An image smaller than a window is padded with zeros of
    the *normalised* scale (the mean colour) only where the graph's size is fixed; mmseg runs such an image at its own size.
    """
    contract = runner.contract
    crop, stride = contract.inference.crop_size, contract.inference.stride
    assert crop is not None and stride is not None
    height, width = image.shape[:2]
    total = np.zeros((contract.num_classes, height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    boxes = list(windows((height, width), crop, stride))
    for start in range(0, len(boxes), contract.batch or 1):
        group = boxes[start : start + (contract.batch or 1)]
        found = _run_windows(runner, [image[y1:y2, x1:x2] for y1, x1, y2, x2 in group])
        for (y1, x1, y2, x2), logits in zip(group, found, strict=True):
            total[:, y1:y2, x1:x2] += logits[:, : y2 - y1, : x2 - x1]
            count[y1:y2, x1:x2] += 1
    return total / count


def windows(image: Size, crop: Size, stride: Size) -> Iterator[tuple[int, int, int, int]]:
    """(y1, x1, y2, x2) of every window, row by row, as mmseg places them."""
    for row in range(max(image[0] - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(image[1] - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            y2, x2 = min(row * stride[0] + crop[0], image[0]), min(column * stride[1] + crop[1], image[1])
            yield max(y2 - crop[0], 0), max(x2 - crop[1], 0), y2, x2


def resize_image(image: Image, size: Size) -> Image:
    """uint8 (H, W, 3) -> ``size`` (height, width), bilinear in integers: mmcv's ``imresize``, hence the training pipeline's."""
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_logits(logits: Logits, size: Size, align_corners: bool) -> Logits:
    """float32 (K, h, w) -> (K, *size), bilinear: ``torch.nn.functional.interpolate`` with the same ``align_corners``."""
    if logits.shape[1:] == tuple(size):
        return logits
    height, width = size
    if not align_corners:
        return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in logits])
    rows, columns = _aligned_axis(logits.shape[1], height), _aligned_axis(logits.shape[2], width)
    return np.stack([_interpolate(_interpolate(plane, rows, 0), columns, 1) for plane in logits])


def _aligned_axis(have: int, want: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Lower neighbour and weight of the upper one for each output position, first and last samples aligned."""
    position = np.linspace(0, have - 1, want) if want > 1 else np.zeros(1)
    lower = np.minimum(position.astype(np.intp), max(have - 2, 0))
    return lower, (position - lower).astype(np.float32)


def _interpolate(plane: Logits, axis: tuple[NDArray[np.intp], NDArray[np.float32]], dim: int) -> Logits:
    lower, weight = axis
    upper = np.minimum(lower + 1, plane.shape[dim] - 1)
    weight = weight[:, None] if dim == 0 else weight
    low, high = plane.take(lower, dim), plane.take(upper, dim)
    return low + (high - low) * weight


def network_image(image: Image, resize: Resize) -> Image:
    """The image at the size the network sees it, by OpenCV as mmseg's test pipeline does it."""
    for size in resize.steps(*image.shape[:2]):
        image = resize_image(image, size)
    return image


def _host_resize(image: Image, resize: Resize) -> Image:
    return image if resize.in_graph else network_image(image, resize)


def resize_map(found: ClassMap, size: Size) -> ClassMap:
    """A class map (h, w) at ``size``, by nearest neighbour."""
    if found.shape == tuple(size):
        return found
    rows = _nearest_axis(found.shape[0], size[0])
    return found[rows][:, _nearest_axis(found.shape[1], size[1])]


def _nearest_axis(have: int, want: int) -> NDArray[np.intp]:
    """Index of the input sample under the centre of each output sample."""
    return np.minimum(((np.arange(want) + 0.5) * (have / want)).astype(np.intp), have - 1)


def _run_windows(runner: Runner, crops: list[Image]) -> list[Logits]:
    crops = [_fill(crop, runner.contract) for crop in crops]
    missing = (runner.contract.batch or len(crops)) - len(crops)
    return list(runner.run(np.stack(crops + [crops[-1]] * missing))[: len(crops)])


def _fill(crop: Image, contract: Contract) -> Image:
    """A window that is smaller than a static graph takes, filled up with the mean colour at the bottom and the right."""
    size = contract.static_size
    if size is None or crop.shape[:2] == size:
        return crop
    padded = np.empty((*size, 3), np.uint8)
    padded[:] = np.rint(contract.mean).astype(np.uint8)
    padded[: crop.shape[0], : crop.shape[1]] = crop
    return padded


def _groups(images: Sequence[Image], contract: Contract) -> Iterator[list[Image]]:
    """Consecutive images that may run together: up to the graph's batch; of one size where the graph's size is dynamic."""
    limit = contract.batch or len(images)
    group: list[Image] = []
    for image in images:
        same = not group or contract.static_size is not None or image.shape == group[0].shape
        if len(group) == limit or not same:
            yield group
            group = []
        group.append(image)
    if group:
        yield group
