"""A torch module as one lean ONNX graph that carries its contract."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import nn
from torch.export import Dim

from segc.core.contract import CONTRACT_KEY, INPUT, Contract, Size
from segc.core.errors import CheckFailed, UserError
from segc.export.layout import drop_idle_resizes, fold_image_scale, pool_globally, tokens_as_maps
from segc.export.rewrite import push_pointwise_through_resize, shrink_constant_maps, split_behind_upsampling
from segc.export.segc_ops import add_functions, torchscript_symbolics, translation_table

Exporter = Literal["dynamo", "torchscript"]

OUTPUTS = {"argmax": "class_map", "logits": "logits", "probabilities": "probabilities"}
OLDEST_OPSET = 17
DEFAULT_OPSET = 20
_AXES = {0: "batch", 1: "height", 2: "width"}
_REWRITES = (
    drop_idle_resizes,
    push_pointwise_through_resize,
    split_behind_upsampling,
    shrink_constant_maps,
    pool_globally,
    tokens_as_maps,
    fold_image_scale,
)
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxslim")


def build_graph(
    module: nn.Module,
    contract: Contract,
    *,
    opset: int = DEFAULT_OPSET,
    exporter: Exporter = "dynamo",
    simplify: bool = True,
    example_size: Size = (512, 512),
) -> onnx.ModelProto:
    """Export a deploy module: static axes as in the contract, dynamic ones named batch, height and width.

    Args:
        module: uint8 (N,H,W,3) -> the contract's output.
        contract: stored in the metadata under ``CONTRACT_KEY``.
        opset: at least 17.
        exporter: ``dynamo`` (torch.export) or ``torchscript`` (tracing).
        simplify: fold and fuse with onnxslim.
        example_size: size of the traced image where the contract's is dynamic.

    Raises:
        UserError: an opset that is too old, or a network that this exporter cannot export.
        CheckFailed: an axis that should be dynamic came out fixed, or the graph is not valid ONNX.
    """
    if opset < OLDEST_OPSET:
        raise UserError(f"opset {opset} is too old: the deploy graph needs at least {OLDEST_OPSET}.", f"--opset {DEFAULT_OPSET}")
    example = _example(contract, example_size)
    with _mute():
        model = add_functions(_trace(module.eval(), contract, example, opset, exporter))
        if simplify:
            model = add_functions(_simplify(model))
    _strip_traces(model)
    _name_axes(model, contract)
    model.producer_name, model.producer_version = "segc", ""
    set_metadata(model, CONTRACT_KEY, contract.model_dump_json())
    return _checked(model)


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set one metadata property of a model, in place."""
    props: dict[str, str] = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, key: value})


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set a model uses."""
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def dynamic_axes(contract: Contract) -> dict[int, str]:
    """Axis -> name of the input axes that the contract leaves open."""
    return {axis: _AXES[axis] for axis, size in enumerate((contract.batch, contract.height, contract.width)) if size is None}


def output_shape(contract: Contract) -> list[int | str]:
    """Shape of the graph's output, open axes by name: (N, H, W), or (N, K, H, W) for logits and probabilities."""
    names = dynamic_axes(contract)
    batch, height, width = (names.get(axis, size or 0) for axis, size in enumerate((contract.batch, contract.height, contract.width)))
    return [batch, height, width] if contract.output == "argmax" else [batch, contract.num_classes, height, width]


def _example(contract: Contract, size: Size) -> torch.Tensor:
    """An image batch to trace with; 2 where the batch is dynamic, because torch.export takes an axis of 1 for a constant."""
    height, width = contract.static_size or size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (contract.batch or 2, height, width, 3), dtype=torch.uint8, generator=generator)


def _trace(module: nn.Module, contract: Contract, example: torch.Tensor, opset: int, exporter: Exporter) -> onnx.ModelProto:
    axes = dynamic_axes(contract)
    try:
        with torch.no_grad():
            return _TRACERS[exporter](module, example, axes, opset, OUTPUTS[contract.output])
    except KeyError:
        raise
    except Exception as error:
        other = "torchscript" if exporter == "dynamo" else "dynamo"
        asked = f" with dynamic {', '.join(axes.values())}" if axes else ""
        raise UserError(
            f"the {exporter} exporter cannot export this network{asked}: {_reason(error)}",
            f"Try --exporter {other}" + (" or a fixed --input-size and --batch." if axes else "."),
        ) from error


def _trace_dynamo(module: nn.Module, example: torch.Tensor, axes: dict[int, str], opset: int, output: str) -> onnx.ModelProto:
    shapes: dict[str, Any] | None = {INPUT: dict.fromkeys(axes, Dim.AUTO)} if axes else None
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[output],
        dynamic_shapes=shapes,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _trace_torchscript(module: nn.Module, example: torch.Tensor, axes: dict[int, str], opset: int, output: str) -> onnx.ModelProto:
    shift = 0 if output == OUTPUTS["argmax"] else 1
    axes_out = {axis + shift if axis else axis: name for axis, name in axes.items()}
    with tempfile.TemporaryDirectory() as folder, torchscript_symbolics(opset):
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[output],
            dynamic_axes={INPUT: axes, output: axes_out} if axes else None,
        )
        return onnx.load(path)


_TRACERS: dict[str, Any] = {"dynamo": _trace_dynamo, "torchscript": _trace_torchscript}


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    try:
        slim: onnx.ModelProto = onnxslim.slim(model)
    except Exception as error:
        raise UserError(f"onnxslim cannot simplify this graph: {_reason(error)}", "Add --no-simplify.") from error
    for rewrite in _REWRITES:
        rewrite(slim)
    return slim


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter tells about the source code: file paths of this machine, and most of a small graph's bytes."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    items = [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for item in [model.graph, *items]:
        item.doc_string = ""
        del item.metadata_props[:]


def _name_axes(model: onnx.ModelProto, contract: Contract) -> None:
    """Give the open axes their names everywhere, and refuse a graph that silently fixed one of them."""
    renames = {}
    for axis, name in dynamic_axes(contract).items():
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if not dim.dim_param:
            raise CheckFailed(
                f"the exporter fixed the {name} axis at {dim.dim_value}: this network cannot be exported with a dynamic {name}. "
                f"Give a fixed {'--batch' if axis == 0 else '--input-size'}."
            )
        renames[dim.dim_param] = name
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for size in output_shape(contract):
        dim = model.graph.output[0].type.tensor_type.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: renames.get(word[0], word[0]), dim.dim_param)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {_reason(error)}") from error
    return model


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


@contextmanager
def _mute() -> Iterator[None]:
    """Silence the exporters: they print and warn about optional packages and about every constant they leave unfolded."""
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
