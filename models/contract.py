"""The pipeline contract of an mmseg config: what its data preprocessor, test pipeline and test_cfg do to an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mmengine.config import Config

from segc.core.contract import Contract, Inference, Resize, Size
from segc.core.errors import UserError

InputSize = Size | Literal["dynamic"] | None
NetworkSize = Size | Literal["input"] | None
Output = Literal["argmax", "logits", "probabilities"]

_HARMLESS = ("Load", "Pack", "RemoveUnused", "ConcatCDInput")
# A keep_ratio box longer than this is a bound, not the size of a picture (ADE20K: 512x2048).
_LONGEST_ASPECT = 2.0


def contract_from_config(
    cfg: Config,
    classes: list[str],
    palette: list[tuple[int, int, int]],
    *,
    input_size: InputSize = None,
    batch: int | None = 1,
    output: Output = "argmax",
    network_size: NetworkSize = None,
) -> Contract:
    """The contract of a config's network.

    Args:
        cfg: config with ``model`` (its ``data_preprocessor`` and ``test_cfg``) and a test pipeline.
        classes, palette: one name and one RGB colour a class.
        input_size: (height, width) of the images the graph takes; ``"dynamic"`` for any; None for the config's own size: the window
            of slide inference, the size the test pipeline stretches to, the box of a ``keep_ratio`` resize (the training crop when
            the box is longer than 2:1 and hence no picture's size), the size it pads to.
        batch: images a run, None for any number.
        output: what the graph gives. Slide inference always gives logits: the host averages windows before the argmax.
        network_size: (height, width) the network works at, over the test pipeline's resize; ``"input"``: the image's own size.

    Raises:
        UserError: the config does something to the image that a contract cannot say; the message tells what to override.
    """
    preprocessor = _preprocessor(cfg)
    inference = _inference(cfg)
    resize = _resize(cfg, network_size)
    slide = inference.mode == "slide"
    if slide:
        resize = resize.model_copy(update={"in_graph": False})
    size = _input_size(cfg, inference, resize, input_size)
    mean, std = _normalisation(preprocessor)
    head = cfg.model.get("decode_head") or {}
    head = head[-1] if isinstance(head, list | tuple) else head
    return Contract(
        classes=list(classes),
        palette=list(palette),
        ignore_index=head.get("ignore_index", 255),
        batch=batch,
        height=size[0] if size else None,
        width=size[1] if size else None,
        mean=mean,
        std=std,
        resize=resize,
        size_divisor=_size_divisor(preprocessor, slide),
        inference=inference,
        output="logits" if slide else output,
        align_corners=bool(head.get("align_corners", False)),
    )


def test_pipeline(cfg: Config) -> list[Mapping[str, Any]]:
    """The transforms a test image passes through; empty when the config has none."""
    for key in ("test_dataloader", "val_dataloader"):
        dataset = (cfg.get(key) or {}).get("dataset")
        while isinstance(dataset, Mapping):
            if dataset.get("pipeline"):
                return list(dataset["pipeline"])
            dataset = dataset.get("dataset")
    return list(cfg.get("test_pipeline") or [])


def _preprocessor(cfg: Config) -> Mapping[str, Any]:
    found = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor")
    if not found:
        raise UserError(
            "the config has no data_preprocessor, so the mean and std of its images are unknown (mmseg 0.x kept them elsewhere).",
            "Add model=dict(data_preprocessor=dict(type='SegDataPreProcessor', mean=..., std=..., bgr_to_rgb=True)).",
        )
    return found


def _normalisation(preprocessor: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std per RGB channel; a network of BGR images lists them in BGR order."""
    mean, std = list(preprocessor.get("mean") or (0.0,) * 3), list(preprocessor.get("std") or (1.0,) * 3)
    if len(mean) != 3 or len(std) != 3:
        raise UserError(f"the data_preprocessor has {len(mean)} mean and {len(std)} std values; 3 are expected: RGB images only.")
    if not converts_channels(preprocessor):
        mean, std = mean[::-1], std[::-1]
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def converts_channels(preprocessor: Mapping[str, Any]) -> bool:
    """True when the data preprocessor turns the loaded BGR image into RGB for the network."""
    return bool(preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr"))


def _size_divisor(preprocessor: Mapping[str, Any], slide: bool) -> int:
    test = preprocessor.get("test_cfg") or {}
    divisor = int(test.get("size_divisor") or 1)
    if slide and (divisor > 1 or test.get("size")):
        raise UserError(
            f"the config pads images (data_preprocessor.test_cfg={dict(test)}) before sliding windows over them, which is not supported.",
            "--override model.data_preprocessor.test_cfg=None",
        )
    return divisor


def _inference(cfg: Config) -> Inference:
    test = cfg.model.get("test_cfg") or {}
    if test.get("mode", "whole") == "whole":
        return Inference()
    return Inference(mode="slide", crop_size=_size(test["crop_size"]), stride=_size(test["stride"]))


def _resize(cfg: Config, wanted: NetworkSize) -> Resize:
    if wanted is not None:
        return Resize() if wanted == "input" else Resize(mode="stretch", size=_size(wanted))
    found = Resize()
    for step in test_pipeline(cfg):
        kind = step["type"] if isinstance(step["type"], str) else step["type"].__name__
        if kind == "Resize":
            found = _resize_step(step)
        elif kind == "ResizeToMultiple":
            found = found.model_copy(update={"multiple": int(step.get("size_divisor", 32))})
        elif not kind.startswith(_HARMLESS):
            raise UserError(
                f"the test pipeline has {kind}, which a deploy graph cannot repeat.",
                "Give --network-size HxW (or 'input') to say at which size the network works.",
            )
    return found


def _resize_step(step: Mapping[str, Any]) -> Resize:
    if step.get("interpolation", "bilinear") != "bilinear" or not step.get("scale"):
        raise UserError(f"the test pipeline's Resize ({dict(step)}) is not a bilinear resize to a scale.", "Give --network-size HxW.")
    scale = step["scale"]
    width, height = (scale, scale) if isinstance(scale, int) else (int(scale[0]), int(scale[1]))
    return Resize(mode="keep_ratio" if step.get("keep_ratio") else "stretch", size=(height, width))


def _input_size(cfg: Config, inference: Inference, resize: Resize, wanted: InputSize) -> Size | None:
    if wanted == "dynamic":
        return None
    if inference.crop_size is not None:
        if wanted is not None and tuple(wanted) != inference.crop_size:
            raise UserError(
                f"input size {_text(_size(wanted))} was asked for, but the config slides windows of {_text(inference.crop_size)}.",
                "For one pass over the whole image: --override model.test_cfg.mode=whole",
            )
        return inference.crop_size
    if wanted is not None:
        return _size(wanted)
    own = own_size(cfg, resize)
    if own is None:
        raise UserError("the config does not say the size of its images: its test pipeline resizes nothing.", "Give --input-size HxW.")
    return own


def own_size(cfg: Config, resize: Resize | None = None) -> Size | None:
    """The image size a config itself says (see ``input_size`` of ``contract_from_config``), or None when it takes images as they come."""
    inference, resize = _inference(cfg), resize or _resize(cfg, None)
    if inference.crop_size is not None:
        return inference.crop_size
    preprocessor = _preprocessor(cfg)
    padded = (preprocessor.get("test_cfg") or {}).get("size")
    if resize.size is None:
        return _size(padded) if padded else None
    if resize.mode == "stretch" or max(resize.size) <= _LONGEST_ASPECT * min(resize.size):
        return resize.size
    crop = padded or preprocessor.get("size") or cfg.get("crop_size")
    return _size(crop) if crop else resize.size


def _size(value: Any) -> Size:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
