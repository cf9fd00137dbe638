"""Graphs of other precisions made from one fp32 deploy graph on the same images: by segc, NNCF, ONNX Runtime and ModelOpt."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from benchmarks.ptq_table import OURS
from segc.calib.calibrate import collect
from segc.calib.ranges import DEFAULT_PERCENTILE, METHODS, AbsHistogram, amax_of
from segc.calib.rescale import choose_factors, rescaled
from segc.compress.bias import correct_biases
from segc.compress.cast import FP16, cast_graph, keep_in_fp32
from segc.compress.placement import place
from segc.compress.quantize import quantize_graph
from segc.compress.scales import floor_weight_scales
from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.errors import CheckFailed
from segc.core.images import read_image
from segc.export.onnx_graph import set_metadata
from segc.runtime.segmenter import network_inputs

DEFAULT_METHOD = "percentile"
_ALPHA = 0.5
_ANALYSED = 8
Graphs = dict[str, Callable[[], ModelProto]]


@dataclass(frozen=True)
class Source:
    """What every graph is made from: the fp32 graph, its contract, calibration images; the Python that has ModelOpt, None: none."""

    model: ModelProto
    contract: Contract
    images: list[Path]
    modelopt: Path | None = None

    @cached_property
    def feeds(self) -> list[np.ndarray]:
        """The images as the graph takes them, a batch of one each."""
        return [each[None] for path in self.images for each in network_inputs(read_image(path), self.contract)]

    @cached_property
    def histograms(self) -> dict[str, AbsHistogram]:
        """Of the fp32 graph's activations."""
        return collect(self.model, self.contract, self.images)

    @cached_property
    def int8(self) -> ModelProto:
        """Our int8 graph with default options."""
        return self.by_method(DEFAULT_METHOD)

    def by_method(self, method: str) -> ModelProto:
        """Our int8 graph with the ranges of a method."""
        return _quantized(self.model, self.histograms, method)


def graphs(source: Source) -> Graphs:
    """Name -> what makes the graph. Names of ours start with ``segc``; the first is the default."""
    methods: Graphs = {_ours(method): lambda method=method: source.by_method(method) for method in (DEFAULT_METHOD, *METHODS)}
    return {
        **methods,
        _ours(f"{DEFAULT_METHOD}, bias correction"): lambda: (
            correct_biases(source.model, source.int8, source.images, source.contract).model
        ),
        _ours(f"{DEFAULT_METHOD}, equalize"): lambda: _evened(source, equalize=True),
        _ours(f"{DEFAULT_METHOD}, SmoothQuant {_ALPHA}"): lambda: _evened(source, smooth_quant=_ALPHA),
        f"{OURS} fp16": lambda: _halved(source, source.model),
        f"{OURS} int8-fp16": lambda: _halved(source, floor_weight_scales(source.int8, FP16.smallest)),
        "NNCF, defaults": lambda: by_nncf(source),
        "ONNX Runtime, defaults": lambda: by_onnx_runtime(source, per_channel=False),
        "ONNX Runtime, per channel": lambda: by_onnx_runtime(source, per_channel=True),
        "ModelOpt, defaults": lambda: by_modelopt(source),
    }


def _ours(how: str) -> str:
    return f"{OURS} int8, {how}"


def _quantized(model: ModelProto, histograms: dict[str, AbsHistogram], method: str) -> ModelProto:
    ranges = {name: amax_of(found, method, DEFAULT_PERCENTILE) for name, found in histograms.items()}
    return quantize_graph(model, ranges, place(model))


def _evened(source: Source, equalize: bool = False, smooth_quant: float | None = None) -> ModelProto:
    model = rescaled(source.model, choose_factors(source.model, source.contract, source.images, equalize, smooth_quant))
    return _quantized(model, collect(model, source.contract, source.images), DEFAULT_METHOD)


def _halved(source: Source, model: ModelProto) -> ModelProto:
    magnitudes = {name: found.amax for name, found in collect(model, source.contract, source.images[:_ANALYSED]).items()}
    return cast_graph(model, FP16, keep_in_fp32(model, FP16, magnitudes))


def by_nncf(source: Source) -> ModelProto:
    """``nncf.quantize`` with its defaults on the same graph and images."""
    import nncf

    feeds = nncf.Dataset([{"images": feed} for feed in source.feeds])
    return _with_contract(nncf.quantize(source.model, feeds, subset_size=len(source.feeds)), source)


def by_onnx_runtime(source: Source, per_channel: bool) -> ModelProto:
    """``quantize_static`` in Q/DQ form after ONNX Runtime's own preprocessing, all else by default."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Gives the images one by one."""

        def __init__(self) -> None:
            self._feeds: Iterator[np.ndarray] = iter(source.feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next input, None after the last."""
            feed = next(self._feeds, None)
            return None if feed is None else {"images": feed}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "quantized.onnx"))
        onnx.save(source.model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel)
        return _with_contract(onnx.load(quantized), source)


def by_modelopt(source: Source) -> ModelProto:
    """``python -m modelopt.onnx.quantization --quantize_mode int8``, calibrated on the CPU, what is not int8 left in fp32.

    Raises:
        CheckFailed: no Python with ModelOpt was named, or it fails.
    """
    if source.modelopt is None:
        raise CheckFailed("not installed: name a Python that has it with --modelopt")
    with tempfile.TemporaryDirectory() as folder:
        plain, images, quantized = (Path(folder) / name for name in ("plain.onnx", "images.npz", "quantized.onnx"))
        onnx.save(source.model, plain)
        np.savez(images, images=np.concatenate(source.feeds))
        options = ["--quantize_mode", "int8", "--high_precision_dtype", "fp32", "--calibration_eps", "cpu"]
        paths = ["--onnx_path", plain, "--calibration_data_path", images, "--output_path", quantized]
        command = [source.modelopt, "-m", "modelopt.onnx.quantization", *options, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
        if done.returncode or not quantized.is_file():
            raise CheckFailed((done.stderr.strip().splitlines() or ["no graph was written"])[-1])
        return _with_contract(onnx.load(quantized), source)


def _with_contract(model: ModelProto, source: Source) -> ModelProto:
    set_metadata(model, CONTRACT_KEY, source.contract.model_dump_json())
    return model
