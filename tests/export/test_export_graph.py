"""Exported graphs in ONNX Runtime against mmseg itself, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config

from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.errors import CheckFailed, UserError
from segc.core.images import write_image
from segc.export.exporter import GraphOptions, common_size, export_network, find_data, make_graph, verification_images
from segc.export.onnx_graph import build_graph
from segc.export.verify import Limits, pick, verify
from segc.models.deploy import DeployModule, contract_from_config
from segc.models.network import Network, load_network, save_network
from segc.runtime.bundle import graph_path, read_manifest

BISENET = "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py"
FASTSCNN = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
SEGFORMER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
DEEPLAB = "mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py"
SHALLOW = {"model.backbone.num_layers": [1, 1, 1, 1]}


def _pipeline(*steps: dict[str, Any]) -> dict[str, Any]:
    whole = [{"type": "LoadImageFromFile"}, *steps, {"type": "PackSegInputs"}]
    return {"test_pipeline": whole, "test_dataloader.dataset.pipeline": whole}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two real photographs."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "coffee"):
        write_image(folder / f"{name}.png", cv2.resize(getattr(data, name)(), (160, 120), interpolation=cv2.INTER_AREA))
    return folder


@pytest.fixture(scope="session")
def bisenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored network that resizes 120x160 images to 64x96."""
    path = tmp_path_factory.mktemp("networks") / "bisenet.safetensors"
    resize = _pipeline({"type": "Resize", "scale": (96, 64), "keep_ratio": False})
    save_network(load_network(BISENET, None, random_weights=True, overrides=resize), path)
    return path


@pytest.fixture(scope="session")
def bundle(bisenet: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bisenet"
    export_network(None, bisenet, folder, input_size=(120, 160), images=photos)
    return folder


def _run(model: Path | onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def _rgb(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].copy()


def _mmseg(network: Network, path: Path) -> Any:
    from mmseg.apis import inference_model

    network.model.cfg = network.cfg  # type: ignore[assignment]
    return inference_model(network.model, str(path))


def test_the_bundle_is_whole(bundle: Path, bisenet: Path) -> None:
    manifest = read_manifest(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "model.onnx"]
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bisenet"]
    graph = onnx.load(graph_path(bundle, manifest, "fp32"))
    stored = {prop.key: prop.value for prop in graph.metadata_props}
    assert Contract.model_validate_json(stored[CONTRACT_KEY]) == manifest.contract
    assert (manifest.contract.static_size, manifest.contract.resize.size) == ((120, 160), (64, 96))
    assert [(item.name, item.type.tensor_type.elem_type) for item in (*graph.graph.input, *graph.graph.output)] == [
        ("images", onnx.TensorProto.UINT8),
        ("class_map", onnx.TensorProto.UINT8),
    ]
    assert manifest.graphs["fp32"].opset >= 17
    assert manifest.provenance["weights"]["name"] == bisenet.name
    assert {"config", "versions"} <= set(manifest.provenance)


def test_the_graph_names_no_path_of_this_machine(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes() + (bundle / "bundle.json").read_bytes()
    for part in (sys.prefix, str(Path(__file__).parents[2]), str(bundle.parent), "site-packages", '.py"', "File "):
        assert part.encode() not in content, part


def test_class_maps_equal_mmseg(bundle: Path, bisenet: Path, photos: Path) -> None:
    network = load_network(None, bisenet)
    for path in sorted(photos.iterdir()):
        found = _run(bundle / "model.onnx", _rgb(path)[None])[0]
        expected = _mmseg(network, path).pred_sem_seg.data[0].numpy()
        assert (found == expected).mean() > 0.99, "only the rounding of OpenCV's fixed-point resize is between them"


def test_parity_is_stored_with_its_conditions(bundle: Path) -> None:
    parity = read_manifest(bundle).graphs["fp32"].parity
    assert parity["n_images"] == 2
    assert parity["relative_logit_error"] < 1e-4
    assert parity["pixel_agreement"] > 0.999
    assert 0.99 < parity["mmseg_pixel_agreement"] <= 1
    assert parity["conditions"]["input_shapes"] == [[1, 120, 160]] * 2
    json.dumps(parity, allow_nan=False)


@pytest.mark.parametrize("output", ["logits", pytest.param("probabilities", marks=pytest.mark.slow)])
def test_other_outputs_equal_mmseg(output: str, photos: Path) -> None:
    network = load_network(BISENET, None, random_weights=True, overrides=_pipeline())
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=(120, 160), output=output)  # type: ignore[arg-type]
    model, _ = make_graph(network, contract, verification_images(photos))
    path = photos / "coffee.png"
    logits = _mmseg(network, path).seg_logits.data
    expected = logits if output == "logits" else logits.softmax(0)
    found = _run(model, _rgb(path)[None])[0]
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("config", "exporter", "size", "overrides"),
    [
        (SEGFORMER, "dynamo", (96, 128), SHALLOW),
        (SEGFORMER, "torchscript", (96, 128), SHALLOW),
        pytest.param(DEEPLAB, "dynamo", (96, 128), {}, marks=pytest.mark.slow),
        pytest.param(FASTSCNN, "dynamo", (96, 128), {}, marks=pytest.mark.slow),
        pytest.param(BISENET, "dynamo", "dynamic", {}, marks=pytest.mark.slow),
        pytest.param(SEGFORMER, "dynamo", "dynamic", SHALLOW, marks=pytest.mark.slow),
        pytest.param(DEEPLAB, "dynamo", "dynamic", {}, marks=pytest.mark.slow),
    ],
)
def test_open_axes_take_any_value(config: str, exporter: Any, size: Any, overrides: dict[str, Any], photos: Path) -> None:
    network = load_network(config, None, random_weights=True, overrides={**_pipeline(), **overrides})
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=size, batch=None, output="logits")
    model, _ = make_graph(network, contract, verification_images(photos), GraphOptions(exporter=exporter))
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", *(("height", "width") if size == "dynamic" else size), 3]
    height, width = (75, 101) if size == "dynamic" else size
    image = cv2.resize(_rgb(photos / "chelsea.png"), (width, height))
    found = _run(model, np.stack([image, image[:, ::-1], image[::-1]]))
    module = DeployModule(network.model, contract)
    with torch.no_grad():
        expected = module(torch.from_numpy(np.stack([image, image[:, ::-1], image[::-1]])))
    assert found.shape == tuple(expected.shape)
    assert np.abs(found - expected.numpy()).max() < 1e-4 * float(expected.abs().max())


def test_a_slide_graph_is_mmsegs_window(photos: Path) -> None:
    slide = {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)}
    resize = _pipeline({"type": "Resize", "scale": (200, 100), "keep_ratio": True})
    network = load_network(BISENET, None, random_weights=True, overrides={**resize, "model.test_cfg": slide})
    contract = contract_from_config(network.cfg, network.classes, network.palette)
    model, parity = make_graph(network, contract, verification_images(photos))
    assert parity["conditions"]["input_shapes"] == [[1, 64, 64]] * 2
    window = _rgb(photos / "coffee.png")[:64, :64]
    inputs = network.model.data_preprocessor({"inputs": [torch.from_numpy(window[..., ::-1].transpose(2, 0, 1).copy())]})["inputs"]  # type: ignore[operator]
    with torch.no_grad():
        expected = network.model.encode_decode(inputs, [{"img_shape": inputs.shape[2:]}]).numpy()  # type: ignore[operator]
    assert np.abs(_run(model, window[None]) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def made(photos: Path) -> tuple[onnx.ModelProto, DeployModule, list[Path]]:
    network = load_network(BISENET, None, random_weights=True, overrides=_pipeline())
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size=(64, 96))
    images = verification_images(photos)
    return make_graph(network, contract, images)[0], DeployModule(network.model, contract), images


@pytest.mark.parametrize("damage", ["bias", "nan"])
def test_a_graph_that_disagrees_is_refused(damage: str, made: tuple[onnx.ModelProto, DeployModule, list[Path]]) -> None:
    good, module, images = made
    model = onnx.ModelProto()
    model.CopyFrom(good)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    bias = next(item for item in model.graph.initializer if item.name == last.input[2])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = np.nan if damage == "nan" else values[0] + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    verify(good, module, images)
    with pytest.raises(CheckFailed, match="disagrees with torch on 2 images"):
        verify(model, module, images)


def test_no_images_no_verdict(made: tuple[onnx.ModelProto, DeployModule, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--images"):
        verify(made[0], made[1], [])
    with pytest.raises(UserError, match="no images in"):
        verification_images(tmp_path)


def test_a_refused_export_leaves_the_old_bundle(bundle: Path, bisenet: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "old")
    with pytest.raises(CheckFailed, match="Nothing was written"):
        export_network(None, bisenet, tmp_path / "old", input_size=(64, 96), images=photos, limits=Limits(logit_error=0.0))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    for name in ("bundle.json", "model.onnx"):
        assert (tmp_path / "old" / name).read_bytes() == (bundle / name).read_bytes()


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "full"), UserError), (OSError(errno.EROFS, "read-only"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_stopped_export_leaves_nothing(
    error: BaseException, raised: type[BaseException], bisenet: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("segc.export.exporter.make_graph", lambda *_: (onnx.ModelProto(), {}))
    monkeypatch.setattr("segc.export.exporter.write_manifest", stop)
    monkeypatch.setattr("segc.export.exporter.opset_of", lambda _: 20)
    with pytest.raises(raised):
        export_network(None, bisenet, tmp_path / "bundle", images=photos, input_size=(64, 96))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_bundle_is_left_alone(bisenet: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not a bundle"):
        export_network(None, bisenet, tmp_path, images=photos)
    with pytest.raises(UserError, match=r"thesis\.txt"):
        export_network(None, bisenet, tmp_path / "thesis.txt" / "bundle", images=photos)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_keep_ratio_needs_a_size(photos: Path) -> None:
    network = load_network(SEGFORMER, None, random_weights=True)
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size="dynamic")
    with pytest.raises(UserError, match="--input-size"):
        make_graph(network, contract, verification_images(photos))


def test_old_opsets_are_refused(made: tuple[onnx.ModelProto, DeployModule, list[Path]]) -> None:
    with pytest.raises(UserError, match="at least 17"):
        build_graph(made[1], made[1].contract, opset=16)


@pytest.mark.slow
def test_a_network_that_fixes_its_size_is_refused(photos: Path) -> None:
    network = load_network(FASTSCNN, None, random_weights=True, overrides=_pipeline())
    contract = contract_from_config(network.cfg, network.classes, network.palette, input_size="dynamic")
    with pytest.raises(CheckFailed, match="--input-size"):
        make_graph(network, contract, verification_images(photos))


def test_the_size_of_the_images_counts_where_the_config_says_none(photos: Path, tmp_path: Path) -> None:
    assert common_size(verification_images(photos)) == (120, 160)
    write_image(tmp_path / "other.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(UserError, match="--input-size"):
        common_size([*verification_images(photos), tmp_path / "other.png"])


def test_the_configs_own_data_is_found(tmp_path: Path) -> None:
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
        write_image(tmp_path / folder / "a.png", np.zeros((8, 9, 3) if "images" in folder else (8, 9), np.uint8))
    (tmp_path / "dataset.json").write_text('{"name": "tiny", "classes": ["a", "b"]}')
    dataset = {"type": "BaseSegDataset", "data_root": str(tmp_path)}
    assert find_data(Config({"test_dataloader": {"dataset": dataset}})) == {"root": str(tmp_path), "layout": "folder", "split": "val"}
    assert find_data(Config({"test_dataloader": {"dataset": {**dataset, "data_root": str(tmp_path / "gone")}}})) is None


def test_images_are_picked_evenly() -> None:
    paths = [Path(str(index)) for index in range(101)]
    assert [path.name for path in pick(paths, 5)] == ["0", "25", "50", "75", "100"]
    assert pick(paths[:3], 5) == paths[:3]
    assert pick(paths, 1) == paths[:1]
