"""The network that is learnt from: frozen, normalising images its own way, its answers kept on disk where images repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segc.compress.distill.points import Point, Taps
from segc.core.errors import UserError
from segc.core.files import atomic_path

# Steps of a training pipeline that give the same sample each time.
_REPEATABLE = {
    "CachedInMemory", "LoadAnnotations", "LoadImageFromFile", "LoadTrainIds", "Normalize", "PackSegInputs", "Pad", "Resize",
    "ResizeShortestEdge", "ResizeToMultiple",
}  # fmt: skip


class Teacher:
    """Outputs of a frozen network at some points. It is no module: neither the optimizer nor a checkpoint sees its weights.

    Args:
        model: the network, in eval mode.
        points: where it is listened to.
        preprocessor: the student's, whose normalised images the teacher gets.
        cache: a folder for its outputs, one file an image; None computes them each time.
    """

    def __init__(self, model: Any, points: Sequence[Point], preprocessor: nn.Module, cache: Path | None = None) -> None:
        self._model = model.eval().requires_grad_(False)
        self._taps = Taps(self._model, points, "teacher")
        self._preprocessor, self._cache = preprocessor, cache

    @torch.no_grad()
    def outputs(self, images: Tensor) -> list[Tensor]:
        """One map (N, C, h, w) a point, for the student's normalised images (N, 3, H, W)."""
        if self._cache is None:
            return self._ask(images)
        paths = [self._cache / f"{_digest(image)}.safetensors" for image in images]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        if missing:
            self._keep([paths[index] for index in missing], self._ask(images[missing]))
        stored = [load_file(path, device=str(images.device)) for path in paths]
        return [torch.stack([one[str(number)] for one in stored]) for number in range(len(self._taps.points))]

    def _ask(self, images: Tensor) -> list[Tensor]:
        self._model.to(images.device)
        with self._taps.listening() as heard:
            self._model(renormalised(images, self._preprocessor, self._model.data_preprocessor), mode="tensor")
            return heard()

    def _keep(self, paths: Sequence[Path], outputs: Sequence[Tensor]) -> None:
        for index, path in enumerate(paths):
            with atomic_path(path) as temporary:
                save_file({str(number): output[index].contiguous() for number, output in enumerate(outputs)}, temporary)


def check_images_repeat(cfg: Config) -> None:
    """Refuse a cache that would never be read.

    Raises:
        UserError: the training of ``cfg`` changes its images at random: none would come a second time.
    """
    steps = cfg.train_dataloader.dataset.get("pipeline") or []
    random = [name for name in _step_names(steps) if name not in _REPEATABLE]
    if random:
        raise UserError(
            f"the training changes its images at random ({', '.join(random)}): no output of the teacher would be asked for twice.",
            "Leave --cache out, or take those steps out of train_dataloader.dataset.pipeline.",
        )


def renormalised(images: Tensor, own: Any, wanted: Any) -> Tensor:
    """Images that the preprocessor ``own`` normalised, as ``wanted`` would have: same mean, deviation and order of channels."""
    if _same_normalisation(own, wanted):
        return images
    if own._enable_normalize:
        images = images * own.std.to(images) + own.mean.to(images)
    if own._channel_conversion != wanted._channel_conversion:
        images = images.flip(1)
    if wanted._enable_normalize:
        images = (images - wanted.mean.to(images)) / wanted.std.to(images)
    return images


def _same_normalisation(own: Any, wanted: Any) -> bool:
    if (own._enable_normalize, own._channel_conversion) != (wanted._enable_normalize, wanted._channel_conversion):
        return False
    same = [torch.equal(getattr(own, name).cpu(), getattr(wanted, name).cpu()) for name in ("mean", "std")] if own._enable_normalize else []
    return all(same)


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:32]


def _step_names(steps: Sequence[Any]) -> Iterator[str]:
    for step in steps:
        yield str(step["type"])
        yield from _step_names(step.get("transforms") or [])
