"""``segc inspect``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from segc.cli.verb import Outcome, verb
from segc.core.errors import UserError, missing_extra
from segc.core.files import sha256_file
from segc.runtime.backends.onnx_metadata import read_metadata
from segc.runtime.bundle import graph_path, is_bundle, read_manifest
from segc.runtime.target import CHECKPOINT_SUFFIXES

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@verb
def inspect(
    source: Annotated[str, typer.Argument(help="A config, checkpoint, .onnx file, bundle or recipe.")],
) -> Outcome:
    """Say what a config, checkpoint, ONNX file, bundle or recipe is. Nothing in it is run.

    Example: segc inspect bundle/

    Example: segc inspect best.pth
    """
    kind, data = describe(source)
    return Outcome(f"{source} is {kind}", {"kind": kind, **data}, [_table(data)])


def describe(source: str) -> tuple[str, dict[str, Any]]:
    """(what it is, its facts; JSON-ready).

    Raises:
        UserError: it does not exist, is damaged, or is none of the kinds.
    """
    path = Path(source)
    if is_bundle(path):
        return "a bundle", _bundle(path)
    if path.suffix in (".yaml", ".yml"):
        from segc.pipeline.recipe import load_recipe

        return "a recipe", load_recipe(source).resolved()
    if path.suffix == ".py":
        return "a config", _config(source)
    if not path.exists():
        raise UserError(f"{source} does not exist.", "Give a config, a checkpoint, an .onnx file, a bundle folder or a recipe.")
    if path.suffix == ".onnx":
        return "an ONNX graph", {**_file(path), **_onnx(path)}
    if path.suffix in CHECKPOINT_SUFFIXES:
        return "a checkpoint", {**_file(path), **_checkpoint(path)}
    raise UserError(f"{source} is no config (.py), checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}), .onnx file, bundle or recipe (.yaml).")


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _bundle(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    graphs = {}
    for precision, graph in manifest.graphs.items():
        path = graph_path(folder, manifest, precision)
        graphs[precision] = {**graph.model_dump(mode="json", exclude={"notes"}), "bytes": path.stat().st_size, **_onnx(path)}
        graphs[precision].pop("contract", None)
    return {
        "name": manifest.name,
        "contract": manifest.contract.model_dump(mode="json"),
        "graphs": graphs,
        "preferred": manifest.preferred,
        "provenance": manifest.provenance,
        "results": sorted(path.name for path in folder.glob("results/*.json")),
        "report": sorted(path.name for path in folder.glob("report/report.*")),
        "recipe": manifest.recipe,
    }


def _onnx(path: Path) -> dict[str, Any]:
    """Facts of a graph: all of them with the package onnx, else those that ONNX Runtime tells."""
    told = _contract(read_metadata(path))
    try:
        import onnx
    except ModuleNotFoundError:
        return {**_onnx_reduced(path), **told}
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError: the package has no type stubs
        raise UserError(f"{path} is not a whole ONNX file ({error}).", "Copy or export it again.") from error
    ops = Counter(node.op_type for node in model.graph.node)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        size = 1
        for length in tensor.dims:
            size *= length
        weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += size
    return {
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
        "nodes": len(model.graph.node),
        "ops": dict(ops.most_common()),
        "quantize_dequantize_nodes": ops["QuantizeLinear"] + ops["DequantizeLinear"],
        "constants_by_type": dict(weights.most_common()),
        **_sparsity(model),
        **told,
    }


def _sparsity(model: Any) -> dict[str, Any]:
    """How many layers are 2:4 sparse, and which could be but are not where some are."""
    from onnx import TensorProto

    from segc.export.sparsity import weight_patterns

    if any(item.data_location == TensorProto.EXTERNAL for item in model.graph.initializer):
        return {}
    patterns = weight_patterns(model)
    sparse = [pattern.node for pattern in patterns if not pattern.reason]
    dense = [pattern.node for pattern in patterns if pattern.dense] if sparse else []
    return {"layers_2_4": f"{len(sparse)} of {len(patterns)}", **({"dense_layers": dense} if dense else {})}


def _shape(value: Any) -> str:
    tensor = value.type.tensor_type
    return " x ".join(str(axis.dim_value or axis.dim_param or "?") for axis in tensor.shape.dim)


def _onnx_reduced(path: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path} is not a graph that ONNX Runtime opens ({str(error).splitlines()[0]}).") from error
    return {
        "reduced": "operators and constants are not told: pip install onnx",
        "inputs": {value.name: " x ".join(map(str, value.shape)) for value in session.get_inputs()},
        "outputs": {value.name: " x ".join(map(str, value.shape)) for value in session.get_outputs()},
    }


def _contract(metadata: dict[str, str]) -> dict[str, Any]:
    from segc.core.contract import CONTRACT_KEY, Contract

    text = metadata.get(CONTRACT_KEY)
    if text is None:
        return {"contract": None}
    try:
        return {"contract": Contract.model_validate_json(text).model_dump(mode="json")}
    except ValueError as error:
        raise UserError(f"the file carries a contract that is not valid: {error}", "Export it again.") from error


def _checkpoint(path: Path) -> dict[str, Any]:
    _need_training_stack("a checkpoint")
    from segc.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    parameters = sum(tensor.numel() for name, tensor in checkpoint.state.items() if not name.endswith(_BUFFERS))
    return {
        "tensors": len(checkpoint.state),
        "parameters": parameters,
        "layers_2_4": sum(_is_sparse(tensor) for tensor in checkpoint.state.values()),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.state.values())),
        "classes": checkpoint.classes,
        "network": _network(checkpoint.config) if checkpoint.config is not None else None,
    }


def _is_sparse(tensor: Any) -> bool:
    """A weight of a layer with two zeros in every four input channels."""
    from segc.models.sparsity import is_two_of_four

    return tensor.ndim in (2, 4) and tensor.is_floating_point() and is_two_of_four(tensor)


def _config(source: str) -> dict[str, Any]:
    _need_training_stack("a config")
    from segc.models.network import build_model, load_config

    cfg = load_config(source)
    model = build_model(cfg)
    return {"network": _network(cfg), "parameters": sum(tensor.numel() for tensor in model.parameters())}


def _network(cfg: Any) -> dict[str, Any]:
    """Types of the parts, what is done to the image, and how it is cut into windows."""
    model = cfg.model
    heads = model.get("decode_head") or {}
    last = heads[-1] if isinstance(heads, list | tuple) else heads
    pre = model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    return {
        "type": model.get("type"),
        "backbone": (model.get("backbone") or {}).get("type"),
        "head": last.get("type"),
        "num_classes": last.get("num_classes"),
        "mean": list(pre.get("mean") or []),
        "std": list(pre.get("std") or []),
        "inference": (model.get("test_cfg") or {}).get("mode", "whole"),
    }


def _need_training_stack(what: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "mmengine"):
        if find_spec(package) is None:
            raise missing_extra(package, "train", f"reading {what}")


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for key, value in _flat(data):
        table.add_row(f"[bold]{key}[/]", Text(value))
    return table


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as lines ``a.b: value``."""
    lines = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key not in ("ops", "versions"):
            lines += _flat(value, f"{name}.")
        elif isinstance(value, dict):
            lines.append((name, ", ".join(f"{inner} {count}" for inner, count in value.items()) or "none"))
        elif isinstance(value, list):
            lines.append((name, ", ".join(map(str, value)) or "none"))
        else:
            lines.append((name, "none" if value is None else str(value)))
    return lines
