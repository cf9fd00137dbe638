"""The parity ladder: a right graph passes, one broken in a single stage is named at that stage, and the chain is mmseg's own path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.images import write_image
from segc.data.dataset import SegmentationSet, open_dataset
from segc.export.onnx_graph import build_graph
from segc.models.contract import contract_from_config
from segc.models.deploy import DeployModule
from segc.models.network import Network, load_network, save_network
from segc.validate.parity.check import parity
from segc.validate.parity.trace import STAGES, Trace, follow
from segc.validate.parity.training import TrainingPipeline

SIZE, SMALL = (96, 128), (48, 64)
SLIDE = {"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)}


def small_network(scale: tuple[int, int] | None = None, test_cfg: dict[str, Any] | None = None) -> Network:
    """A narrow quickstart network of random weights whose logits vary; ``scale`` (height, width) is its test pipeline's Resize."""
    resize = [{"type": "Resize", "scale": scale[::-1], "keep_ratio": False}] if scale else []
    steps = [{"type": "LoadImageFromFile"}, *resize, {"type": "LoadTrainIds"}, {"type": "PackSegInputs"}]
    overrides = {
        "model.backbone.base_channels": 8,
        "model.backbone.stem_channels": 8,
        "model.neck.in_channels": [8, 16, 32, 64],
        "model.test_cfg": {"_delete_": True, **test_cfg} if test_cfg else {"mode": "whole"},
        "test_dataloader.dataset.pipeline": steps,
    }
    network = load_network("segc::quickstart/quickstart.py", None, random_weights=True, overrides=overrides)
    with torch.no_grad():
        network.model.decode_head.conv_seg.weight.mul_(100)
    return network


def graph_of(network: Network, **options: Any) -> ModelProto:
    contract = contract_from_config(network.cfg, network.classes, network.palette, **options)
    return build_graph(DeployModule(network.model, contract).eval(), contract, exporter="torchscript")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SegmentationSet:
    """Three photographs with labels that mean nothing."""
    from skimage import data

    root = tmp_path_factory.mktemp("set")
    names = load_network("segc::quickstart/quickstart.py", None, random_weights=True).classes
    for index, name in enumerate(("astronaut", "chelsea", "coffee")):
        picture = cv2.resize(getattr(data, name)(), SIZE[::-1], interpolation=cv2.INTER_AREA)
        write_image(root / "images" / "val" / f"{index}.png", picture)
        write_image(root / "labels" / "val" / f"{index}.png", (picture[..., 0] // 24).astype(np.uint8))
    (root / "dataset.json").write_text(json.dumps({"name": "photos", "classes": names}))
    return open_dataset(root)


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network(SMALL)


@pytest.fixture(scope="module")
def graph(network: Network) -> ModelProto:
    return graph_of(network, input_size=SIZE)


@pytest.fixture
def climbed(tmp_path: Path, dataset: SegmentationSet) -> Callable[[Network, ModelProto], dict[str, Any]]:
    def run(network: Network, model: ModelProto) -> dict[str, Any]:
        save_network(network, tmp_path / "best.safetensors")
        onnx.save(model, tmp_path / "model.onnx")
        return parity(str(tmp_path / "model.onnx"), str(tmp_path / "best.safetensors"), dataset)

    return run


def changed(model: ModelProto, change: Callable[[ModelProto], None]) -> ModelProto:
    broken = ModelProto()
    broken.CopyFrom(model)
    change(broken)
    return broken


def resizes(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Resize"]


def set_attribute(node: onnx.NodeProto, name: str, value: str) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def swap_channels(model: ModelProto) -> None:
    """The image as BGR, taken for RGB."""
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    swap = onnx.helper.make_node("Gather", [cast.output[0], "order"], ["swapped"], axis=3)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[index] = "swapped"
    model.graph.node.insert(list(model.graph.node).index(cast) + 1, swap)


def move_mean(model: ModelProto) -> None:
    subtract = next(node for node in model.graph.node if node.op_type == "Sub")
    mean = next(item for item in model.graph.initializer if item.name == subtract.input[1])
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + np.float32([[[0]], [[0]], [[4]]]), mean.name))


def nearest(model: ModelProto) -> None:
    set_attribute(resizes(model)[0], "mode", "nearest")


def align(model: ModelProto) -> None:
    for node in resizes(model)[-2:]:
        set_attribute(node, "coordinate_transformation_mode", "align_corners")


def noisy_weights(model: ModelProto) -> None:
    weight = next(item for item in model.graph.initializer if item.name.endswith("conv_seg.weight"))
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values + np.roll(values, 1, 0) * np.float32(0.2), weight.name))


def test_a_right_graph_passes(network: Network, graph: ModelProto, climbed: Callable[..., dict[str, Any]]) -> None:
    result = climbed(network, graph)
    assert result["passed"] and result["first"] is None
    stages = {each["stage"]: each for each in result["stages"]}
    assert list(stages) == [*STAGES, "runtime", "mIoU"] and all(each["difference"] is not None for each in stages.values())
    assert all(each["difference"] == 0 for name, each in stages.items() if name in ("decode", "resize", "windows", "argmax", "runtime"))


@pytest.mark.parametrize(
    ("change", "stage"),
    [(swap_channels, "normalize"), (move_mean, "normalize"), (nearest, "resize"), (align, "upsample"), (noisy_weights, "logits")],
)
def test_a_graph_broken_in_one_stage_is_named_there_and_only_there(
    change: Callable[[ModelProto], None], stage: str, network: Network, graph: ModelProto, climbed: Callable[..., dict[str, Any]]
) -> None:
    result = climbed(network, changed(graph, change))
    assert [each["stage"] for each in result["stages"] if not each["passed"]] == [stage]
    assert result["first"] == stage and not result["passed"]


def test_costs_of_either_order_add_up_to_the_loss(network: Network, graph: ModelProto, climbed: Callable[..., dict[str, Any]]) -> None:
    result = climbed(network, changed(changed(graph, nearest), align))
    lost = next(row["value"] for row in result["rows"] if row["metric"] == "mIoU lost by the pipeline")
    costs = {each["stage"]: (each["cost"], each["cost_training_first"]) for each in result["stages"]}
    assert lost != 0 and costs["resize"][0] != 0 and costs["upsample"][0] != 0 and costs["logits"] == (0, 0)
    for order in (0, 1):
        assert sum(costs[stage][order] for stage in STAGES) == pytest.approx(lost, abs=1e-9)


def test_whole_instead_of_slide_is_named(dataset: SegmentationSet, climbed: Callable[..., dict[str, Any]]) -> None:
    network = small_network(test_cfg=SLIDE)
    assert climbed(network, graph_of(network))["passed"]
    whole = small_network(test_cfg={"mode": "whole"})
    result = climbed(network, graph_of(whole, input_size=SIZE))
    assert result["first"] == "windows" and [each["stage"] for each in result["stages"] if not each["passed"]] == ["windows"]
    stages = {each["stage"]: each for each in result["stages"]}
    assert stages["logits"]["difference"] is None and "takes 3x96x128, not 3x48x48" in stages["logits"]["note"]
    assert stages["windows"]["cost"] is not None and stages["windows"]["cost_training_first"] is None


@pytest.mark.parametrize("options", [{"scale": (80, 100)}, {"test_cfg": SLIDE}, {"scale": (80, 100), "test_cfg": SLIDE}])
@pytest.mark.parametrize("divisor", [None, 64])
def test_the_training_pipeline_is_mmsegs_own_path(options: dict[str, Any], divisor: int | None, dataset: SegmentationSet) -> None:
    from mmseg.apis import inference_model

    network = small_network(**options)
    contract = contract_from_config(
        network.cfg, network.classes, network.palette, input_size="dynamic" if "test_cfg" not in options else None
    )
    if divisor:
        network.model.data_preprocessor.test_cfg = {"size_divisor": divisor}
    trace = follow(TrainingPipeline(network, contract), Trace(dataset.pairs[0].image))
    network.cfg.test_pipeline = [step for step in network.cfg.test_dataloader.dataset.pipeline if step["type"] != "LoadTrainIds"]
    network.model.cfg = network.cfg  # type: ignore[assignment]
    expected = inference_model(network.model, cv2.imread(str(dataset.pairs[0].image)))
    assert np.abs(trace.upsample - expected.seg_logits.data.numpy()).max() < 1e-4 * np.abs(trace.upsample).max()
    assert (trace.argmax == expected.pred_sem_seg.data[0].numpy()).mean() > 0.999


def test_a_graph_smaller_than_the_images_says_what_its_way_back_costs(network: Network, climbed: Callable[..., dict[str, Any]]) -> None:
    """The host resizes the image, and the class map back by nearest neighbour, where mmseg resizes logits."""
    result = climbed(network, graph_of(network, input_size=SMALL))
    assert result["first"] == "upsample"
    stages = {each["stage"]: each for each in result["stages"]}
    assert stages["resize"]["difference"] == 0 and stages["runtime"]["difference"] == 0


def test_a_graph_of_probabilities_passes(network: Network, climbed: Callable[..., dict[str, Any]]) -> None:
    result = climbed(network, graph_of(network, input_size=SIZE, output="probabilities"))
    assert result["passed"], [each for each in result["stages"] if not each["passed"]]


@pytest.mark.slow
def test_a_graph_of_any_size_passes(dataset: SegmentationSet, climbed: Callable[..., dict[str, Any]]) -> None:
    config = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
    steps = [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]
    options = {"test_dataloader.dataset.pipeline": steps, "model.decode_head.num_classes": len(dataset.spec.classes)}
    network = load_network(config, None, random_weights=True, classes=dataset.spec.classes, overrides=options)
    assert climbed(network, graph_of(network, input_size="dynamic", batch=None))["passed"]


def test_the_command_line(tmp_path: Path, dataset: SegmentationSet, network: Network, graph: ModelProto) -> None:
    save_network(network, tmp_path / "best.safetensors")
    onnx.save(graph, tmp_path / "model.onnx")
    onnx.save(changed(graph, move_mean), tmp_path / "moved.onnx")
    common = ["--against", str(tmp_path / "best.safetensors"), "--data", str(dataset.root), "--limit", "2"]
    assert CliRunner().invoke(app, ["parity", str(tmp_path / "model.onnx"), *common]).exit_code == 0
    failed = CliRunner().invoke(app, ["parity", str(tmp_path / "moved.onnx"), *common, "--json"])
    told = json.loads(failed.stdout)
    assert failed.exit_code == 1 and "first stage that differs is normalize: 4 grey levels apart, allowed 0.5" in told["summary"]
    assert {row["metric"] for row in told["data"]["rows"]} >= {"mIoU, training pipeline", "parity normalize"}
    assert told["data"]["dataset"]["n"] == 2
    swapped = ["parity", str(tmp_path / "best.safetensors"), *common]
    assert CliRunner().invoke(app, swapped).exit_code == 2


def test_what_cannot_be_compared_is_refused(tmp_path: Path, dataset: SegmentationSet, network: Network, graph: ModelProto) -> None:
    save_network(network, tmp_path / "best.safetensors")
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="is no checkpoint"):
        parity(str(tmp_path / "model.onnx"), str(tmp_path / "model.onnx"), dataset)
    few = open_dataset(_small_set(tmp_path / "few", [*dataset.spec.classes, "other"]))
    with pytest.raises(UserError, match="the graph 11, the checkpoint 11, the dataset 12"):
        parity(str(tmp_path / "model.onnx"), str(tmp_path / "best.safetensors"), few)
    wide = open_dataset(_small_set(tmp_path / "wide", list(dataset.spec.classes), label=(8, 9)))
    with pytest.raises(UserError, match=r"0\.png is 9x8, but its image is 8x8 pixels"):
        parity(str(tmp_path / "model.onnx"), str(tmp_path / "best.safetensors"), wide)


def _small_set(root: Path, classes: list[str], label: tuple[int, int] = (8, 8)) -> Path:
    for folder in ("images", "labels"):
        write_image(root / folder / "val" / "0.png", np.zeros((8, 8, 3) if folder == "images" else label, np.uint8))
    (root / "dataset.json").write_text(json.dumps({"name": "more", "classes": classes}))
    return root
