"""Selective scan and cross selective scan in standard operators, in two forms.

Both cut a sequence into chunks of 16 steps (``lines``), scan inside all chunks at once, carry the state from chunk to chunk, and never
overflow where the recurrence does not, whatever the sign and size of ``delta A`` (``recurrence``):

- ``sums`` for CPUs (default): with one state, running sums inside a chunk, as long as none forgets or grows by more than e^50; else step
  by step, all chunks, channels and states side by side.
- ``tree`` for GPUs: Hillis-Steele doubling, without a branch or a loop.

The four directions of a map are scanned where they lie: rows along the last axis, columns along the one before it, backwards from the end.
No map is transposed or turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from onnx import TensorProto

from segc.ops.onnx_functions.body import Body
from segc.ops.onnx_functions.lines import Line
from segc.ops.onnx_functions.recurrence import Recurrence, by_doubling, by_sums

Form = Literal["sums", "tree"]

# 2 atanh(r / 2) / r as a polynomial in r^2, r from 0 to 2/3: Chebyshev fit, relative error 1.7e-7.
_ATANH = (0.9999998362, 0.08334497253, 0.01237189363, 0.002673629202)


@dataclass(frozen=True)
class ScanVariant:
    """What a body is made for; None of a flag: nodes of the model differ in it and the body reads the node's attribute.

    ``scalar_state`` says that d_state is 1, ``aligned`` that no chunk of any node is cut short; ``chunks`` is an upper bound of the
    chunks of a sequence.
    """

    chunks: int
    form: Form = "sums"
    delta_softplus: bool | None = None
    reverse: bool | None = False
    scalar_state: bool = False
    aligned: bool = False


def selective_scan(body: Body, variant: ScanVariant) -> str:
    """Record SelectiveScan on the inputs of its signature; returns the name of y."""
    u, delta, b, c = (body.float32(name) for name in ("u", "delta", "B", "C"))
    if variant.reverse is None:
        u, delta, b, c = (_turned(body, value) for value in (u, delta, b, c))
    batch, channels, length, groups = body.size("u", 0), body.size("u", 1), body.size("u", 2), body.size("B", 1)
    grouped = [body.reshape(value, batch, groups, body.ints(-1), length) for value in (u, delta)]
    states = {"A": body.size("A", 1), "delta_bias": body.ints(1)}
    weights = [body.reshape(body.float32(name), groups, body.ints(-1), size) for name, size in states.items()]
    line = Line(columns=False, reverse=bool(variant.reverse), aligned=variant.aligned)
    y = body.reshape(_scans(body, variant, [_Scan(line, grouped[0], grouped[1], b, c, weights[0], weights[1])])[0], batch, channels, length)
    y = body.op("Add", y, body.op("Mul", u, body.op("Unsqueeze", body.float32("D"), body.ints(1))))
    return body.op("CastLike", _turned(body, y) if variant.reverse is None else y, "u")


def cross_selective_scan(body: Body, variant: ScanVariant) -> str:
    """Record CrossSelectiveScan: a scan for each direction, all of them read from and added to maps in row-major order."""
    batch, channels, height, width = (body.size("u", axis) for axis in range(4))
    u, four = body.float32("u"), body.ints(4)
    maps = [body.split(body.reshape(body.float32("delta"), batch, four, channels, height, width), [1] * 4, axis=1)]
    maps += [body.split(body.float32(name), [1] * 4, axis=1) for name in ("B", "C")]
    weights = [body.split(body.reshape(body.float32(name), four, channels, body.ints(-1)), [1] * 4, axis=0) for name in ("A", "delta_bias")]
    skip = body.op("ReduceSum", body.reshape(body.float32("D"), four, channels, body.ints(1, 1)), body.ints(0), keepdims=0)
    one = body.op("Unsqueeze", u, body.ints(1))
    scans = []
    for direction, (delta, b, c, *own) in enumerate(zip(*maps, *weights, strict=True)):
        line = Line(columns=direction % 2 == 1, reverse=direction >= 2, aligned=variant.aligned)
        scans.append(_Scan(line, *(line.sequence(body, value) for value in (one, delta, b, c)), *own))
    y = body.op("Mul", u, skip)
    for value in _scans(body, variant, scans):
        y = body.op("Add", body.reshape(value, batch, channels, height, width), y)
    return body.op("CastLike", y, "u")


@dataclass(frozen=True)
class _Scan:
    """u and delta (batch, groups, members, *sequence), B and C with the states for members, A (groups, members, states), bias (.., 1)."""

    line: Line
    u: str
    delta: str
    b: str
    c: str
    A: str
    bias: str


def _scans(body: Body, variant: ScanVariant, scans: list[_Scan]) -> list[str]:
    """y of each scan without the skip connection, as its u."""
    states = by_doubling if variant.form == "tree" else partial(by_sums, positive=bool(variant.delta_softplus))
    found = states(body, (_cut(body, variant, scan) for scan in scans), variant.chunks)
    return [scan.line.joined(body, y, scan.u) for scan, y in zip(scans, found, strict=True)]


def _cut(body: Body, variant: ScanVariant, scan: _Scan) -> Recurrence:
    bias = body.op("Unsqueeze", scan.bias, body.ints(3)) if scan.line.columns else scan.bias
    dt = _step_size(body, variant, body.op("Add", scan.delta, bias))
    steps = [scan.line.cut(body, value) for value in (dt, body.op("Mul", dt, scan.u))]
    steps += [scan.line.cut(body, value, of_states=True) for value in (scan.b, scan.c)]
    return Recurrence(scan.line, scan.line.spread(body, scan.A), steps[0], steps[1], steps[2], steps[3], variant.scalar_state)


def _turned(body: Body, value: str) -> str:
    """The last axis backwards where the node's ``reverse`` is 1."""
    reverse = body.op("Reshape", body.attribute("reverse", "int"), body.ints(1))
    step = body.op("Sub", body.ints(1), body.op("Mul", body.ints(2), reverse))
    end = body.op("Mul", step, body.ints(2**62))
    return body.op("Slice", value, body.op("Neg", reverse), end, body.ints(-1), step)


def _step_size(body: Body, variant: ScanVariant, delta: str) -> str:
    if variant.delta_softplus is None:
        wanted = body.op("Cast", body.attribute("delta_softplus", "int"), to=TensorProto.BOOL)
        return body.op("Where", wanted, softplus(body, delta), delta)
    return softplus(body, delta) if variant.delta_softplus else delta


def softplus(body: Body, value: str) -> str:
    """``log(1 + exp(value))`` to a relative error below 1e-6 everywhere: runtimes' own Softplus loses small results, one's is slow.

    ``max(x, 0) + log1p(exp(-|x|))``, and ``log1p(exp(-a)) = 2 atanh(r / 2)`` with ``r = 1 / (exp(a) + 1/2)``: where exp overflows, r is 0.
    """
    r = body.op("Reciprocal", body.op("Add", body.op("Exp", body.op("Abs", value)), body.scalar(0.5)))
    square = body.op("Mul", r, r)
    # a x + b in one operator: from 0 to 1, where it lies, HardSigmoid is nothing else.
    series = body.op("HardSigmoid", square, alpha=_ATANH[3], beta=_ATANH[2])
    for coefficient in _ATANH[1::-1]:
        series = body.op("Add", body.op("Mul", series, square), body.scalar(coefficient))
    return body.op("Add", body.op("Relu", value), body.op("Mul", r, series))
