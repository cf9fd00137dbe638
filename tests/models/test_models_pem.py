"""PEM against what the official modules gave for the same weights, and its parts against independent references."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segc.core.errors import UserError
from segc.export.exporter import GraphOptions, make_graph
from segc.models.complexity import complexity
from segc.models.contract import contract_from_config
from segc.models.deploy import DeployModule
from segc.models.network import build_model, load_config, load_network
from segc.models.pem.backbone import FourMapSTDC
from segc.models.pem.pixel_decoder import DeformableConv
from segc.models.pem.transformer import PrototypeAttention
from segc.models.published import convert
from tests.models.seeded import fill
from tests.models.trained import losses_of_training

DATA = Path(__file__).parent / "data"
NETWORKS = ("r50", "stdc1", "stdc2")
# Of the official networks with 19 classes.
PARAMETERS = {"r50": 35_532_581, "stdc1": 16_957_829, "stdc2": 20_988_293}
# Published, in units of 1e9. The counter of the authors does not see detectron2's deformable convolutions. Their 46.9 of R50 for ADE20K are
# left out: 31 more than STDC1, where an eighth of the difference in the Cityscapes column says 18 at 512x512.
OPERATIONS = [
    *[(name, "cityscapes", (1024, 2048), giga) for name, giga in (("r50", 240), ("stdc1", 92), ("stdc2", 118))],
    *[(name, "ade20k", (512, 512), giga) for name, giga in (("stdc1", 16.0), ("stdc2", 19.3))],
]
# Some tensors of each kind: our name, the official one.
SAME = {
    "backbone.bn1.running_mean": "backbone.stem.conv1.norm.running_mean",
    "backbone.layer3.5.conv2.weight": "backbone.res4.5.conv2.weight",
    "backbone.layer3.5.bn2.running_var": "backbone.res4.5.conv2.norm.running_var",
    "backbone.layer4.0.downsample.1.bias": "backbone.res5.0.shortcut.norm.bias",
    "backbone.stages.1.bn.bias": "backbone.features.1.bn.bias",
    "backbone.stages.2.0.downsample.conv.weight": "backbone.features.2.avd_layer.0.weight",
    "backbone.stages.3.4.layers.2.conv.weight": "backbone.features.10.conv_list.2.conv.weight",
    "backbone.stages.4.1.layers.3.bn.weight": "backbone.features.12.conv_list.3.bn.weight",
    "decode_head.pixel_decoder.csm.3.mlp.3.weight": "sem_seg_head.pixel_decoder.csm.3.mlp.0.mlp.3.weight",
    "decode_head.pixel_decoder.dcn.1.up_sample.weight": "sem_seg_head.pixel_decoder.dcn.1.up_sample.weight",
    "decode_head.predictor.layers.5.ffn.linear1.bias": "sem_seg_head.predictor.transformer_ffn_layers.5.linear1.bias",
    "decode_head.predictor.layers.2.cross_attention.alpha": "sem_seg_head.predictor.transformer_cross_attention_layers.2.alpha",
    "decode_head.predictor.layers.4.self_attention.norm.bias": "sem_seg_head.predictor.transformer_self_attention_layers.4.norm.bias",
    "decode_head.predictor.mask_embed.4.bias": "sem_seg_head.predictor.mask_embed.layers.2.bias",
}


def _network(name: str, dataset: str = "cityscapes", **head: Any) -> nn.Module:
    return build_model(
        load_config(f"segc::pem/pem_{name}_{dataset}.py", {f"model.decode_head.{key}": value for key, value in head.items()})
    )


@functools.cache
def _filled(name: str) -> nn.Module:
    network = _network(name, num_classes=7)
    fill(network.state_dict(), 1)
    return network


def _image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def _official_state(name: str) -> dict[str, Tensor]:
    """Names and shapes of an official network's state dict, 150 classes."""
    shapes = json.loads(gzip.decompress((DATA / f"pem_{name}_150_keys.json.gz").read_bytes()))
    return {key: torch.full(shape, index % 97 / 97) for index, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_as_published(name: str) -> None:
    assert sum(parameter.numel() for parameter in _network(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "dataset", "size", "giga"), OPERATIONS)
def test_operations_are_as_published(name: str, dataset: str, size: tuple[int, int], giga: float) -> None:
    deformable = 128 * 128 * 9 * sum(size[0] * size[1] // stride**2 for stride in (8, 16, 32))
    assert (complexity(_network(name, dataset), size).macs - deformable) / 1e9 == pytest.approx(giga, rel=0.02)


@pytest.mark.parametrize(("name", "size"), [("r50", (64, 96)), ("stdc1", (64, 96)), ("stdc1", (96, 32)), ("stdc2", (64, 96))])
def test_outputs_equal_the_official_code(name: str, size: tuple[int, int]) -> None:
    network = _filled(name)
    with torch.no_grad():
        maps = network.extract_feat(_image(*size))
        classes, masks = network.decode_head.predictions(maps)[-1]
        scores = network.decode_head(maps)
    expected = load_file(DATA / "pem_outputs.safetensors")
    found = {"classes": classes, "masks": masks[:, ::5, ::2, ::2], "scores": scores[:, :, ::8, ::8]}
    for part, tensor in found.items():
        official = expected[f"{name}_{size[0]}x{size[1]}_{part}"]
        assert float((tensor - official).abs().max() / official.abs().max()) < 1e-5, part
    assert scores.shape[2:] == size


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 4)])
def test_deformable_convolution_equals_onnx(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = DeformableConv(3)
    inputs = {"x": torch.randn(2, 3, *size), "o": 3 * torch.randn(2, 18, *size), "m": torch.rand(2, 9, *size)}
    node = helper.make_node("DeformConv", ["x", "w", "o", "", "m"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwomy"]
    graph = helper.make_graph([node], "g", values[:4], values[4:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"w": conv.weight.detach().numpy(), **{name: tensor.numpy() for name, tensor in inputs.items()}})
    with torch.no_grad():
        found = conv(inputs["x"], inputs["o"], inputs["m"]).numpy()
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("case", ["some", "a blind query", "a blind image", "all blind", "all seen"])
def test_prototypes_are_the_most_similar_pixels_seen(case: str) -> None:
    torch.manual_seed(1)
    attention = PrototypeAttention(8, 2, {"type": "BN"})
    tokens, wanted = F.normalize(torch.randn(2, 12, 8), dim=-1), F.normalize(torch.randn(2, 5, 8), dim=-1)
    mask = torch.randn(2, 5, 12)
    if "blind" in case:
        mask[{"a blind query": (0, 3), "a blind image": (1,), "all blind": ()}[case]] = -1.0
    mask = mask.abs() if case == "all seen" else mask
    found = attention._prototypes(tokens, wanted, mask)
    assert torch.equal(found, _prototypes_by_loops(tokens, wanted, mask, heads=2))


def _prototypes_by_loops(tokens: Tensor, wanted: Tensor, mask: Tensor, heads: int) -> Tensor:
    found = torch.empty_like(wanted)
    for image, query, head in np.ndindex(len(wanted), wanted.shape[1], heads):
        part = slice(head * wanted.shape[2] // heads, (head + 1) * wanted.shape[2] // heads)
        similarity = tokens[image, :, part] @ wanted[image, query, part]
        if (mask[image] >= 0).any():
            similarity[mask[image, query] < 0] = -torch.inf
        found[image, query, part] = tokens[image, similarity.argmax(), part]
    return found


@pytest.mark.parametrize("size", [(97, 64), (64, 80)])
def test_other_sizes_than_multiples_of_32_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"multiples of 32.*maps of \d+x\d+, ") as error, torch.no_grad():
        _filled("stdc1")(_image(*size))
    assert "size_divisor=32" in str(error.value.fix)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_official_checkpoint_fits_without_a_gap(name: str, tmp_path: Path) -> None:
    state = _official_state(name)
    torch.save({"model": state, "iteration": 159999}, tmp_path / "model_final.pth")
    found = convert(f"segc::pem/pem_{name}_ade20k.py", tmp_path / "model_final.pth")
    assert found.differences == []
    assert found.loaded == sum(not key.startswith(("backbone.x", "criterion.")) for key in state)
    ours = found.network.model.state_dict()
    assert all(torch.equal(ours[own], state[official]) for own, official in SAME.items() if official in state)


def test_an_imagenet_stdc_becomes_the_backbone(tmp_path: Path) -> None:
    official = _official_state("stdc1")
    state = {name.removeprefix("backbone."): tensor for name, tensor in official.items() if name.startswith("backbone.features.")}
    torch.save({"state_dict": {**state, "linear.weight": torch.zeros(1000, 1024), "bn.bias": torch.zeros(1024)}}, tmp_path / "stdc.tar")
    found = convert("segc::pem/pem_stdc1_ade20k.py", tmp_path / "stdc.tar")
    assert found.loaded == len(state)
    assert all(item.kind == "missing" and item.name.startswith("decode_head.") for item in found.differences)


def test_a_checkpoint_of_another_variant_or_data_set_is_refused(tmp_path: Path) -> None:
    torch.save({"model": _official_state("stdc1")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"weights of another network: \d+ missing.*It is pem-stdc1"):
        load_network("segc::pem/pem_stdc2_ade20k.py", tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 of another shape .*class_embed\.weight \(151, 256\) instead of \(20, 256\)"):
        load_network("segc::pem/pem_stdc1_cityscapes.py", tmp_path / "w.pth")


def test_an_unknown_backbone_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'STDCNet1'"):
        FourMapSTDC("STDC1", norm_cfg={"type": "BN"})


def test_training_lowers_the_loss_and_reaches_every_part() -> None:
    torch.manual_seed(0)
    network = _network("stdc1", num_classes=3, loss_decode={"num_points": 256}).train()
    losses = losses_of_training(network, 4e-4, 6, most=0.01)
    assert losses[-1] < losses[0] / 2
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


# dataset -> classes, crop, least and largest short side in training, iterations, rate, last rate.
RECIPES = {
    "ade20k": (150, (512, 512), 256, 1024, 160_000, 4e-4, 1e-6),
    "cityscapes": (19, (512, 1024), 512, 2048, 90_000, 7e-4, 0.0),
    "cocostuff164k": (171, (512, 512), 256, 1024, 160_000, 4e-4, 1e-6),
}


@pytest.mark.parametrize("dataset", RECIPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_configs_say_what_was_published(name: str, dataset: str) -> None:
    cfg = load_config(f"segc::pem/pem_{name}_{dataset}.py")
    classes, crop, least, largest, iterations, rate, last_rate = RECIPES[dataset]
    assert cfg.model.decode_head.num_classes == classes
    assert (tuple(cfg.model.data_preprocessor.size), cfg.model.data_preprocessor.test_cfg) == (crop, {"size_divisor": 32})
    steps = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    scales = steps["RandomChoiceResize"]["scales"]
    assert (tuple(steps["RandomCrop"]["crop_size"]), scales[0], scales[-1], len(scales)) == (crop, least, largest, 16)
    (decay,) = cfg.param_scheduler
    assert (decay.type, decay.eta_min, decay.end, cfg.train_cfg.max_iters) == ("CosineAnnealingLR", last_rate, iterations, iterations)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.clip_grad.max_norm, cfg.train_dataloader.batch_size) == (rate, 0.01, 8)
    assert cfg.model.backbone.norm_cfg.requires_grad == ((name, dataset) not in {("r50", "ade20k"), ("r50", "cocostuff164k")})


@pytest.mark.parametrize("name", ["r50", "stdc2"])
def test_norms_and_embeddings_do_not_decay_and_the_backbone_learns_slowly(name: str) -> None:
    cfg = load_config(f"segc::pem/pem_{name}_cityscapes.py", {"optim_wrapper.type": "OptimWrapper"})
    network = build_model(cfg)
    groups = build_optim_wrapper(network, cfg.optim_wrapper).optimizer.param_groups
    settings = {id(group["params"][0]): (group["lr"], group["weight_decay"]) for group in groups}
    norms = {id(p) for m in network.modules() if isinstance(m, (_BatchNorm, nn.LayerNorm, nn.Embedding)) for p in m.parameters()}
    for key, parameter in network.named_parameters():
        rate = 7e-5 if key.startswith("backbone.") else 7e-4
        assert settings[id(parameter)] == (pytest.approx(rate), 0.0 if id(parameter) in norms else 0.05), key


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_the_graph_decides_as_the_network(exporter: Any, tmp_path: Path) -> None:
    from skimage import data

    photo = cv2.resize(data.chelsea(), (90, 60), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    names = list("abcdefg")
    small = {"num_classes": 7, "channels": 32, "query_channels": 64, "num_queries": 30, "num_layers": 3, "feedforward_channels": 128}
    overrides = {f"model.decode_head.{key}": value for key, value in small.items()}
    network = load_network("segc::pem/pem_stdc1_cityscapes.py", None, random_weights=True, classes=names, overrides=overrides)
    _decisive(network.model)
    contract = contract_from_config(network.cfg, names, network.palette, input_size=(60, 90), network_size="input")
    graph, parity = make_graph(network, contract, [tmp_path / "photo.png"], GraphOptions(exporter=exporter))
    assert len(DeployModule(network.model, contract)(torch.from_numpy(photo)[None]).unique()) > 1
    assert {node.domain for node in graph.graph.node} == {""}
    assert parity["pixel_agreement"] == 1.0


@torch.no_grad()
def _decisive(network: Any) -> None:
    """Random weights whose queries tell different classes and masks, so that the class map has several."""
    network.decode_head.predictor.class_embed.weight.mul_(30)
    network.decode_head.predictor.mask_embed[-1].weight.mul_(100)
