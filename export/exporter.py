"""Network -> bundle: the fp32 deploy graph, verified against torch, with its contract and provenance."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from mmengine.config import Config

from segc.core.contract import Contract, Resize, Size
from segc.core.errors import UserError
from segc.core.files import atomic_folder, explain_write_errors, sha256_file, sha256_json
from segc.core.images import SUFFIXES, read_image
from segc.core.rows import environment, package_version
from segc.export.onnx_graph import DEFAULT_OPSET, Exporter, build_graph, opset_of
from segc.export.verify import DEFAULT_IMAGES, Limits, pick, verify
from segc.models.complexity import complexity, parameter_count
from segc.models.config import encode_config
from segc.models.contract import InputSize, NetworkSize, Output, contract_from_config, own_size
from segc.models.deploy import DeployModule
from segc.models.network import Network, check_weights, load_network
from segc.runtime.bundle import Graph, Manifest, graph_file, is_bundle, write_manifest

PRECISION = "fp32"
_EXAMPLE_LIMIT = 512


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is made (see ``build_graph``) and checked (see ``verify``)."""

    opset: int = DEFAULT_OPSET
    exporter: Exporter = "dynamo"
    simplify: bool = True
    limits: Limits = field(default_factory=Limits)
    verify_images: int = DEFAULT_IMAGES


def export_network(
    config: str | Path | Config | None,
    weights: str | Path | None,
    bundle: Path | str,
    *,
    input_size: InputSize = None,
    network_size: NetworkSize = None,
    batch: int | None = 1,
    output: Output = "argmax",
    opset: int = DEFAULT_OPSET,
    exporter: Exporter = "dynamo",
    simplify: bool = True,
    images: Sequence[Path] | Path | None = None,
    verify_images: int = DEFAULT_IMAGES,
    limits: Limits | None = None,
    overrides: Mapping[str, Any] | None = None,
    random_weights: bool = False,
    name: str | None = None,
) -> Manifest:
    """Export a network's fp32 deploy graph into a new bundle; an older bundle at that path is replaced when all went well.

    Args:
        config, weights, overrides, random_weights: see ``load_network``.
        bundle: the folder to write; it must not exist, be empty, or be a bundle.
        input_size, network_size, batch, output: see ``contract_from_config``; where the config says no size, that of the images.
        opset, exporter, simplify: see ``build_graph``.
        images: image files, or a folder of them, to verify on; None takes the config's validation images where they lie on this
            machine, else those of the embedded dataset.
        verify_images: how many of them, evenly spread.
        limits: when the graph counts as equal to torch.
        name: of the bundle in reports; None takes the folder's.

    Raises:
        UserError: config, weights, sizes or output path are wrong, or weights are no numbers.
        CheckFailed: the graph disagrees with torch; nothing is written.
    """
    bundle = Path(bundle)
    _check_output(bundle)
    network = load_network(config, weights, overrides=overrides, random_weights=random_weights)
    check_weights(network.model)
    options = GraphOptions(opset, exporter, simplify, limits or Limits(), verify_images)
    data = find_data(network.cfg)
    files = pick(verification_images(images, data), verify_images)
    if input_size is None and network_size in (None, "input") and own_size(network.cfg) is None:
        input_size = common_size(files)
    contract = contract_from_config(
        network.cfg, network.classes, network.palette, input_size=input_size, network_size=network_size, batch=batch, output=output
    )
    model, parity = make_graph(network, contract, files, options)
    provenance = {
        "config": {"name": config_name(config), "sha256": sha256_json(encode_config(network.cfg))},
        "weights": {"name": Path(weights).name, "sha256": sha256_file(weights)} if weights else {"name": "random", "seed": 0},
        **({"data": data} if data else {}),
        **environment(),
    }
    return _write(bundle, name or bundle.resolve().name, model, contract, parity, provenance, options, _counted(network, contract))


def make_graph(
    network: Network, contract: Contract, images: Sequence[Path], options: GraphOptions | None = None
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The verified deploy graph of a network, and what the verification measured.

    Raises:
        UserError: a contract that cannot be exported.
        CheckFailed: the graph disagrees with torch.
    """
    options = options or GraphOptions()
    if contract.resize.mode == "keep_ratio" and contract.resize.in_graph and contract.static_size is None:
        raise UserError(
            "the config resizes images with their aspect ratio kept, which a graph of any input size cannot do.",
            "Give the size of your images: --input-size HxW (or --network-size input for no resize at all).",
        )
    module = DeployModule(network.model, contract).eval()
    own = contract.resize.size or (_EXAMPLE_LIMIT, _EXAMPLE_LIMIT)
    model = build_graph(
        module,
        contract,
        opset=options.opset,
        exporter=options.exporter,
        simplify=options.simplify,
        example_size=(min(own[0], _EXAMPLE_LIMIT), min(own[1], _EXAMPLE_LIMIT)),
    )
    return model, verify(model, module, pick(images, options.verify_images), options.limits)


def verification_images(images: Sequence[Path] | Path | None, data: Mapping[str, str] | None = None) -> list[Path]:
    """The images to verify on: those given (files or a folder), else the data's validation images, else the embedded dataset's.

    Raises:
        UserError: the folder holds no images.
    """
    if images is None:
        return _validation_set(data)
    if not isinstance(images, Path | str):
        return list(images)
    folder = Path(images)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise UserError(f"no images in {folder} (looked for {', '.join(SUFFIXES)}).", "Give a folder of real images: --images FOLDER")
    return found


def _validation_set(data: Mapping[str, str] | None) -> list[Path]:
    from segc.data.dataset import open_dataset

    if data:
        return open_dataset(**data).image_paths
    from segc.data.embedded import embedded_dataset

    return open_dataset(embedded_dataset()).image_paths


def common_size(images: Sequence[Path]) -> Size:
    """(height, width) that all these images have.

    Raises:
        UserError: they differ, so that a graph of one size has to be told which.
    """
    sizes = {read_image(path).shape[:2] for path in images}
    if len(sizes) != 1:
        raise UserError(
            "the config does not say the size of its images, and those given have several.", "Give --input-size HxW or dynamic."
        )
    height, width = sizes.pop()
    return height, width


def find_data(cfg: Config) -> dict[str, str] | None:
    """The validation data of a config as {"root", "layout", "split"}, when it lies on this machine in a layout segc reads."""
    from segc.data.dataset import open_dataset
    from segc.data.embedded import embedded_dataset

    for key in ("test_dataloader", "val_dataloader"):
        dataset = (cfg.get(key) or {}).get("dataset") or {}
        ours = dataset.get("type") == "SegcDataset"
        root = dataset.get("root") or embedded_dataset() if ours else dataset.get("data_root")
        if not root or not Path(root).is_dir():
            continue
        try:
            found = open_dataset(root, dataset.get("layout") if ours else None, dataset.get("split", "val") if ours else "val")
        except UserError:
            continue
        return {"root": str(root), "layout": found.layout, "split": found.split}
    return None


def config_name(config: str | Path | Config | None) -> str:
    """A config's name without the path of this machine: ``mmseg::...`` as given, else the file's name."""
    text = config.filename or "" if isinstance(config, Config) else str(config or "")
    return text if "::" in text else Path(text).name or "from the checkpoint"


def _counted(network: Network, contract: Contract) -> dict[str, Any]:
    """Parameters and operations of one pass, for reports; the operations only where the network's size is fixed."""
    size = contract.static_size
    if size is None:
        return {"parameters": parameter_count(network.model)}
    own = contract.resize.network_size(*size) if contract.resize.in_graph else size
    return asdict(complexity(network.model, Resize(multiple=contract.size_divisor).network_size(*own)))


def _check_output(bundle: Path) -> None:
    """Say that the output cannot be written before the work is done, and never replace a folder that is not ours."""
    if bundle.exists() and not is_bundle(bundle) and (not bundle.is_dir() or any(bundle.iterdir())):
        raise UserError(f"{bundle} exists and is not a bundle; it is left as it is.", "Give another folder: -o NEW")
    with explain_write_errors(bundle):
        bundle.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.tmp").cleanup()


def _write(
    bundle: Path,
    name: str,
    model: onnx.ModelProto,
    contract: Contract,
    parity: dict[str, Any],
    provenance: dict[str, Any],
    how: GraphOptions,
    counts: dict[str, Any],
) -> Manifest:
    with atomic_folder(bundle) as folder:
        path = folder / graph_file(PRECISION)
        path.write_bytes(model.SerializeToString())
        simplifier = f"onnxslim {package_version('onnxslim')}" if how.simplify else None
        notes = {"exporter": how.exporter, "simplifier": simplifier, **counts}
        graph = Graph(file=path.name, sha256=sha256_file(path), opset=opset_of(model), parity=parity, notes=notes)
        manifest = Manifest(name=name, contract=contract, graphs={PRECISION: graph}, provenance=provenance)
        write_manifest(folder, manifest)
    return manifest
