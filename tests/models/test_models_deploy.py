"""The deploy module against mmseg's own test path on real images."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segc.core.errors import UserError
from segc.models.deploy import DeployModule, contract_from_config
from segc.models.network import Network, load_network

SEGFORMER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
FASTSCNN = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
DEEPLAB = "mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py"


def _pipeline(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Overrides that set the test pipeline, which mmseg's inference_model and its test loop read in two places."""
    return {"test_pipeline": steps, "test_dataloader.dataset.pipeline": steps}


def _network(config: str, resize: dict[str, Any] | None = None, **overrides: Any) -> Network:
    """A random network of mmseg's config whose test pipeline has the given Resize step."""
    steps = [{"type": "LoadImageFromFile"}, *([{"type": "Resize", **resize}] if resize else []), {"type": "PackSegInputs"}]
    overrides = {f"model.{key.replace('__', '.')}": value for key, value in overrides.items()}
    return load_network(config, None, random_weights=True, overrides={**_pipeline(steps), **overrides})


@pytest.fixture(scope="module")
def segformer() -> Network:
    return _network(SEGFORMER)


@pytest.fixture
def photo() -> np.ndarray:
    """A real RGB photograph, 150x200."""
    from skimage import data

    return cv2.resize(data.chelsea(), (200, 150), interpolation=cv2.INTER_AREA)


def _mmseg_logits(network: Network, image: np.ndarray) -> torch.Tensor:
    """Logits (K,H,W) of mmseg's inference_model: its pipeline, its preprocessor, its EncoderDecoder."""
    from mmseg.apis import inference_model

    network.model.cfg = network.cfg  # type: ignore[assignment]
    return inference_model(network.model, np.ascontiguousarray(image[..., ::-1])).seg_logits.data


def _deploy(network: Network, image: np.ndarray, **options: Any) -> torch.Tensor:
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=image.shape[:2], **options)
    with torch.no_grad():
        return DeployModule(network.model, contract)(torch.from_numpy(image)[None])[0]


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("config", [SEGFORMER, FASTSCNN, DEEPLAB])
def test_logits_equal_mmseg_without_resize(config: str, photo: np.ndarray) -> None:
    network = _network(config)
    assert _relative(_deploy(network, photo, output="logits"), _mmseg_logits(network, photo)) < 1e-4


def test_logits_equal_mmseg_with_padding_to_a_divisor(photo: np.ndarray) -> None:
    network = _network(SEGFORMER, data_preprocessor__test_cfg={"size_divisor": 64}, data_preprocessor__pad_val=1.5)
    assert _relative(_deploy(network, photo, output="logits"), _mmseg_logits(network, photo)) < 1e-4


def test_logits_equal_mmseg_with_padding_to_a_size(photo: np.ndarray) -> None:
    network = _network(SEGFORMER, data_preprocessor__test_cfg={"size": (192, 224)})
    assert _relative(_deploy(network, photo, output="logits"), _mmseg_logits(network, photo)) < 1e-4


def test_logits_equal_mmseg_with_a_second_resize_to_a_multiple(photo: np.ndarray) -> None:
    network = _network(SEGFORMER)
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (320, 128), "keep_ratio": True},
        {"type": "ResizeToMultiple", "size_divisor": 32},
        {"type": "PackSegInputs"},
    ]
    network.cfg.merge_from_dict(_pipeline(steps))
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=photo.shape[:2])
    assert contract.resize.steps(150, 200) == [(128, 171), (128, 192)]
    # OpenCV's resize of uint8 images is one grey level coarser here and there.
    assert _relative(_deploy(network, photo, output="logits"), _mmseg_logits(network, photo)) < 2e-2


@pytest.mark.parametrize("resize", [{"scale": (256, 96), "keep_ratio": False}, {"scale": (320, 128), "keep_ratio": True}])
@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_follow_mmseg_through_the_resize(resize: dict[str, Any], align_corners: bool, photo: np.ndarray) -> None:
    network = _network(SEGFORMER, resize, decode_head__align_corners=align_corners)
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=photo.shape[:2], output="logits")
    module = DeployModule(network.model, contract)
    height, width = contract.resize.network_size(*photo.shape[:2])
    resized = cv2.resize(photo, (width, height), interpolation=cv2.INTER_LINEAR)
    module.preprocess = lambda _: (torch.from_numpy(resized)[None].permute(0, 3, 1, 2).float() - module.mean) / module.std  # type: ignore[method-assign]
    with torch.no_grad():
        assert _relative(module(torch.from_numpy(photo)[None])[0], _mmseg_logits(network, photo)) < 1e-4


@pytest.mark.parametrize(("size", "same"), [((75, 100), 1.0), ((96, 128), 0.85), ((300, 380), 0.85)])
def test_resize_in_the_graph_gives_opencvs_grey_levels(segformer: Network, photo: np.ndarray, size: tuple[int, int], same: float) -> None:
    contract = contract_from_config(segformer.cfg, segformer.classes, segformer.palette, input_size=(150, 200), network_size=size)
    module = DeployModule(segformer.model, contract)
    found = (module.preprocess(torch.from_numpy(photo)[None]) * module.std + module.mean)[0].permute(1, 2, 0).round().numpy()
    expected = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() >= same


def test_networks_of_bgr_images_get_bgr(photo: np.ndarray) -> None:
    options = {"data_preprocessor__bgr_to_rgb": False, "data_preprocessor__mean": [100.0, 110.0, 120.0]}
    network = _network(SEGFORMER, **options)
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=(150, 200))
    assert contract.mean == (120.0, 110.0, 100.0), "the contract's mean is per RGB channel"
    assert _relative(_deploy(network, photo, output="logits"), _mmseg_logits(network, photo)) < 1e-4


def test_outputs_agree_with_each_other(segformer: Network, photo: np.ndarray) -> None:
    logits = _deploy(segformer, photo, output="logits")
    classes = _deploy(segformer, photo, output="argmax")
    probabilities = _deploy(segformer, photo, output="probabilities")
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), logits.argmax(0))
    assert torch.allclose(probabilities, logits.softmax(0), atol=1e-6)


def test_binary_head_decides_at_its_threshold(photo: np.ndarray) -> None:
    network = load_network(
        SEGFORMER,
        None,
        random_weights=True,
        classes=["background", "thing"],
        overrides={
            **_pipeline([{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]),
            "model.decode_head": {"num_classes": 2, "out_channels": 1, "threshold": 0.45},
        },
    )
    sigmoid = _mmseg_logits(network, photo)[0]
    assert 0 < (sigmoid > 0.45).float().mean() < 1
    assert torch.equal(_deploy(network, photo).bool(), sigmoid > 0.45)
    assert torch.equal(_deploy(network, photo, output="logits").argmax(0).bool(), sigmoid > 0.45)
    assert torch.allclose(_deploy(network, photo, output="probabilities")[1], sigmoid, atol=1e-5)


def test_slide_contract_is_the_window(photo: np.ndarray) -> None:
    network = _network(
        SEGFORMER, {"scale": (256, 128), "keep_ratio": True}, test_cfg={"mode": "slide", "crop_size": (64, 64), "stride": (48, 48)}
    )
    contract = contract_from_config(network.cfg, network.classes, network.palette)
    assert (contract.static_size, contract.output, contract.resize.in_graph) == ((64, 64), "logits", False)
    assert (contract.inference.crop_size, contract.inference.stride) == ((64, 64), (48, 48))
    window = torch.from_numpy(photo[:64, :64].copy())[None]
    with torch.no_grad():
        found = DeployModule(network.model, contract)(window)
        inputs = (window.permute(0, 3, 1, 2).float() - network.model.data_preprocessor.mean) / network.model.data_preprocessor.std  # type: ignore[union-attr, operator]
        expected = network.model.encode_decode(inputs, [{"img_shape": inputs.shape[2:]}])  # type: ignore[operator]
    assert _relative(found, expected) < 1e-5


def test_default_input_size_comes_from_the_config() -> None:
    cases = [
        ({"scale": (320, 240)}, (240, 320)),
        ({"scale": (640, 360), "keep_ratio": True}, (360, 640)),
        ({"scale": (2048, 512), "keep_ratio": True}, (512, 512)),
    ]
    network = _network(SEGFORMER)
    for resize, size in cases:
        network.cfg.test_dataloader.dataset.pipeline = [{"type": "Resize", **resize}]
        assert contract_from_config(network.cfg, network.classes, network.palette).static_size == size


def test_images_that_come_as_they_are_need_a_size(segformer: Network) -> None:
    with pytest.raises(UserError, match="--input-size"):
        contract_from_config(segformer.cfg, segformer.classes, segformer.palette)


def test_network_size_overrides_the_pipeline(segformer: Network) -> None:
    contract = contract_from_config(segformer.cfg, segformer.classes, segformer.palette, input_size=(120, 160), network_size=(64, 96))
    assert (contract.resize.mode, contract.resize.size) == ("stretch", (64, 96))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"type": "ResizeShortestEdge", "scale": 512, "max_size": 2048}, "--network-size"),
        ({"type": "Resize", "scale_factor": 0.5}, "not a bilinear resize to a scale"),
    ],
)
def test_unsayable_pipelines_are_refused(segformer: Network, step: dict[str, Any], told: str) -> None:
    cfg = copy.deepcopy(segformer.cfg)
    cfg.test_dataloader.dataset.pipeline = [step]
    with pytest.raises(UserError, match=told):
        contract_from_config(cfg, segformer.classes, segformer.palette)


def test_configs_without_normalisation_are_refused(segformer: Network) -> None:
    cfg = copy.deepcopy(segformer.cfg)
    cfg.model.pop("data_preprocessor")
    cfg.pop("data_preprocessor")
    with pytest.raises(UserError, match="data_preprocessor"):
        contract_from_config(cfg, segformer.classes, segformer.palette)


def test_padded_slide_is_refused(segformer: Network) -> None:
    cfg = copy.deepcopy(segformer.cfg)
    cfg.model.test_cfg = {"mode": "slide", "crop_size": (64, 64), "stride": (48, 48)}
    cfg.merge_from_dict({"model.data_preprocessor.test_cfg": {"size_divisor": 32}})
    with pytest.raises(UserError, match="pads images"):
        contract_from_config(cfg, segformer.classes, segformer.palette)
