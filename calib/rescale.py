"""Factors that even out channels before ranges are measured: exact in fp32, and one int8 scale then fits all channels better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from segc.calib.joints import Joint, find_joints
from segc.calib.stream import stream
from segc.core.contract import Contract
from segc.core.errors import UserError

Factors = dict[str, list[float]]
Vector = NDArray[np.float64]
_SWEEPS = 20
_SETTLED = 1e-3


def choose_factors(
    model: ModelProto,
    contract: Contract,
    images: Sequence[Path],
    equalize: bool = False,
    smooth_quant: float | None = None,
    threads: int | None = None,
) -> Factors:
    """Tensor -> the factor that each of its channels is divided by; empty where nothing was asked for.

    Args:
        model: an fp32 graph.
        images: what SmoothQuant measures activations on.
        equalize: see ``equalizing_factors``.
        smooth_quant: alpha of ``smoothing_factors``, applied to the equalized graph; None: not.

    Raises:
        UserError: an alpha outside [0, 1], or a graph without a tensor that can be rescaled.
    """
    if not equalize and smooth_quant is None:
        return {}
    if smooth_quant is not None:
        _check_alpha(smooth_quant)
    if not find_joints(model):
        raise UserError("no tensor of this graph can be rescaled between two weights.", "Leave out --equalize and --smooth-quant.")
    factors = equalizing_factors(model) if equalize else {}
    if smooth_quant is None:
        return factors
    even = rescaled(model, factors)
    smooth = smoothing_factors(even, _magnitudes(even, contract, images, threads), smooth_quant)
    return {tensor: (np.asarray(found) * np.asarray(factors.get(tensor, 1.0))).tolist() for tensor, found in smooth.items()}


def _magnitudes(model: ModelProto, contract: Contract, images: Sequence[Path], threads: int | None) -> dict[str, Vector]:
    """Largest magnitude of each channel of what the joints' readers see."""
    axes = dict(seen for joint in find_joints(model) for seen in joint.seen)
    found: dict[str, Vector] = {}
    for _, values in stream(model, list(axes), images, contract, "measuring channels", threads):
        for (tensor, axis), value in zip(axes.items(), values, strict=True):
            largest = np.abs(value).max(axis=tuple(other for other in range(value.ndim) if other != axis)).astype(np.float64)
            found[tensor] = np.maximum(largest, found.get(tensor, 0.0))
    return found


def rescaled(model: ModelProto, factors: Mapping[str, list[float]]) -> ModelProto:
    """A copy of ``model`` in which channel c of each tensor is divided by its factor, and what reads it multiplied.

    Args:
        factors: tensor -> a factor above 0 a channel; see ``segc.calib.joints.find_joints`` for which tensors have some.

    Raises:
        UserError: a tensor that cannot be rescaled in this graph.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    if not factors:
        return copy
    joints = {joint.tensor: joint for joint in find_joints(copy)}
    values = _Values(copy)
    for tensor, wanted in factors.items():
        if tensor not in joints:
            raise UserError(f"tensor {tensor} cannot be rescaled in this graph.", "Calibrate again: segc calibrate BUNDLE --images DIR")
        values.rescale(joints[tensor], np.asarray(wanted))
    values.store()
    return copy


def equalizing_factors(model: ModelProto) -> Factors:
    """Cross-layer equalization: the weights that make a channel and those that read it get one range.

    s_c = sqrt(r1_c * r2_c) / r2_c, repeated over all joints until nothing moves (Nagel et al., "Data-Free Quantization Through Weight
    Equalization and Bias Correction", ICCV 2019, eq. 11). Only what weights make, a LayerNorm's scale is none.
    """
    weighted = {node.output[0] for node in model.graph.node if node.op_type not in ("LayerNormalization", "Mul")}
    joints = [joint for joint in find_joints(model) if joint.tensor in weighted]
    values = _Values(model)
    total = {joint.tensor: np.ones(len(values.made(joint))) for joint in joints}
    for _ in range(_SWEEPS):
        moved = 0.0
        for joint in joints:
            factors = _ratio(np.sqrt(values.made(joint) * values.read(joint)), values.read(joint))
            values.rescale(joint, factors)
            total[joint.tensor] *= factors
            moved = max(moved, float(np.abs(np.log(factors)).max()))
        if moved < _SETTLED:
            break
    return {tensor: found.tolist() for tensor, found in total.items()}


def smoothing_factors(model: ModelProto, magnitudes: Mapping[str, Vector], alpha: float) -> Factors:
    """SmoothQuant: part of a tensor's differences between channels goes into the weights that read it.

    s_c = max|x_c|^alpha / max|w_c|^(1 - alpha) (Xiao et al., "SmoothQuant", ICML 2023, eq. 4), in every joint.

    Args:
        magnitudes: tensor that a joint's reader sees -> largest magnitude of each channel on real images.
        alpha: between 0 (all stays in the activations) and 1 (all goes into the weights).
    """
    values = _Values(model)
    found = {}
    for joint in find_joints(model):
        seen = np.max([magnitudes[tensor] for tensor, _ in joint.seen], axis=0)
        found[joint.tensor] = _ratio(seen**alpha, values.read(joint) ** (1 - alpha)).tolist()
    return found


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(f"--smooth-quant is {alpha:g}; expected a share between 0 and 1.", "--smooth-quant 0.5")


def _ratio(above: Vector, below: Vector) -> Vector:
    """above / below, and 1 for channels where either is 0: nothing flows there."""
    alive = (above > 0) & (below > 0)
    return np.where(alive, above / np.where(alive, below, 1.0), 1.0)


class _Values:
    """The constants of a graph as arrays, rescaled before they are stored."""

    def __init__(self, model: ModelProto) -> None:
        self._tensors: dict[str, TensorProto] = {item.name: item for item in model.graph.initializer}
        self._arrays: dict[str, NDArray[np.float64]] = {}

    def made(self, joint: Joint) -> Vector:
        """Range of each channel's weights in the maker."""
        return joint.made[0].largest(self._array(joint.made[0].constant))

    def read(self, joint: Joint) -> Vector:
        """Range of each channel's weights, over all readers."""
        return np.max([slot.largest(self._array(slot.constant)) for slot in joint.read], axis=0)

    def rescale(self, joint: Joint, factors: Vector) -> None:
        """Divide what makes the channels, multiply what reads them."""
        for slots, spread in ((joint.made, 1 / factors), (joint.read, factors)):
            for slot in slots:
                values = self._array(slot.constant)
                self._arrays[slot.constant] = values * slot.spread(spread, values.shape)

    def store(self) -> None:
        """Write the arrays back as float32."""
        for name, values in self._arrays.items():
            self._tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    def _array(self, name: str) -> NDArray[np.float64]:
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self._tensors[name]).astype(np.float64)
        return self._arrays[name]
