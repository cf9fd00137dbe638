"""Selective scan and cross selective scan in standard operators, in two forms.

Both cut a sequence into chunks, scan inside all chunks at once, carry the state from chunk to chunk, and never divide by a decay: nothing
overflows where the recurrence does not, whatever the sign and size of ``delta A``.

- ``loop``: an ONNX Scan runs over the steps of a chunk with all chunks, channels and states as lanes, so that what a step touches stays in
  the processor's cache. The first pass finds the state at the end of every chunk, the second starts from the carried states.
- ``tree``: Hillis-Steele doubling inside the chunks: no loop, log2(chunk) passes over the data. For GPUs, where a loop is a launch a step.

Between chunks both double (Hillis and Steele, CACM 29:12, 1986) over (log decay, state) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto

from segc.ops.onnx_functions.body import Body

Form = Literal["loop", "tree"]
_Record = Callable[[Body, list[str], list[str], list[str]], list[str]]

MOST_CHUNKS = 2**13
# Steps of a chunk from a length on: about a quarter of its square root, so that lanes are many and still fit the cache.
_CHUNKS = {0: 4, 2**10: 8, 2**12: 16, 2**14: 32, 2**16: 64, 2**18: 128}
_TREE_CHUNK = 128
# Exponents of a product of decays: e^-80 is nothing beside any state a float32 holds next to it and not yet a denormal; e^88 is finite.
_LEAST_EXPONENT, _MOST_EXPONENT = -80.0, 88.0
# 2 atanh(r / 2) / r as a polynomial in r^2, r from 0 to 2/3: Chebyshev fit, relative error 1.7e-7.
_ATANH = (0.9999998362, 0.08334497253, 0.01237189363, 0.002673629202)


@dataclass(frozen=True)
class ScanVariant:
    """What a body is made for; None of a flag: nodes of the model differ in it and the body reads the node's attribute.

    ``scalar_state`` says that d_state is 1, ``aligned`` that every length is a multiple of its chunk; ``chunks`` is an upper bound
    of the chunks of a sequence.
    """

    form: Form = "loop"
    delta_softplus: bool | None = None
    reverse: bool | None = False
    scalar_state: bool = False
    aligned: bool = False
    chunks: int = MOST_CHUNKS


def selective_scan(body: Body, variant: ScanVariant) -> str:
    """Record SelectiveScan on the inputs of its signature; returns the name of y."""
    turned = _turned if variant.reverse is None else _flipped if variant.reverse else _as_it_is
    u, delta, b, c = (turned(body, body.float32(name)) for name in ("u", "delta", "B", "C"))
    return body.op("CastLike", turned(body, _scan(body, variant, u, delta, b, c)), "u")


def cross_selective_scan(body: Body, variant: ScanVariant) -> str:
    """Record CrossSelectiveScan: the four directions as four groups of one scan, each map brought into its direction's order."""
    batch, channels, height, width = (body.size("u", axis) for axis in range(4))
    rows = body.reshape(body.float32("u"), batch, body.ints(1), channels, height, width)
    four = body.ints(4)
    delta, b, c = (
        _along(body, body.reshape(body.float32(name), batch, four, states, height, width))
        for name, states in (("delta", channels), ("B", body.size("B", 2)), ("C", body.size("B", 2)))
    )
    u = _directions(body, [rows] * 4)
    u, delta = (body.reshape(value, batch, body.op("Mul", four, channels), body.ints(-1)) for value in (u, delta))
    y = _scan(body, variant, u, delta, b, c)
    return body.op("CastLike", _merged(body, body.reshape(y, batch, four, channels, body.ints(-1)), height, width), "u")


def _along(body: Body, maps: str) -> str:
    """Maps (batch, 4, n, height, width), one a direction -> (batch, 4, n, length), each in its direction's order."""
    return _directions(body, body.split(maps, [1] * 4, axis=1))


def _directions(body: Body, maps: list[str]) -> str:
    rows, columns, rows_back, columns_back = maps
    sequences = [_flat(body, rows), _flat(body, _swap(body, columns))]
    back = body.concat(_flat(body, rows_back), _flat(body, _swap(body, columns_back)), axis=1)
    return body.concat(*sequences, _flipped(body, back), axis=1)


def _merged(body: Body, y: str, height: str, width: str) -> str:
    """(batch, 4, channels, length) -> the sum of the four directions, (batch, channels, height, width)."""
    there, back = body.split(y, [2, 2], axis=1)
    rows, columns = body.split(body.op("Add", there, _flipped(body, back)), [1, 1], axis=1)
    zero = body.ints(0)
    columns = _swap(body, body.reshape(columns, zero, zero, zero, width, height))
    return body.op("Squeeze", body.op("Add", body.reshape(rows, zero, zero, zero, height, width), columns), body.ints(1))


def _flat(body: Body, maps: str) -> str:
    return body.reshape(maps, body.ints(0, 0, 0, -1))


def _swap(body: Body, maps: str) -> str:
    return body.op("Transpose", maps, perm=[0, 1, 2, 4, 3])


def _flipped(body: Body, value: str) -> str:
    return body.op("Slice", value, body.ints(-1), body.ints(-(2**62)), body.ints(-1), body.ints(-1))


def _turned(body: Body, value: str) -> str:
    """The last axis backwards where the node's ``reverse`` is 1."""
    reverse = body.op("Reshape", body.attribute("reverse", "int"), body.ints(1))
    step = body.op("Sub", body.ints(1), body.op("Mul", body.ints(2), reverse))
    end = body.op("Mul", step, body.ints(2**62))
    return body.op("Slice", value, body.op("Neg", reverse), end, body.ints(-1), step)


def _as_it_is(_: Body, value: str) -> str:
    return value


def _scan(body: Body, variant: ScanVariant, u: str, delta: str, b: str, c: str) -> str:
    """u, delta (batch, groups * channels, length), b, c (batch, groups, states, length) -> y, as u; all float32."""
    batch, channels, length = (body.size(u, axis) for axis in range(3))
    groups, states = body.size(b, 1), body.size(b, 2)
    chunk = _chunk(body, variant.form, length)
    one, rest = body.ints(1), body.ints(-1)
    chunks = body.op("Div", body.op("Sub", body.op("Add", length, chunk), one), chunk)
    whole = body.op("Mul", chunks, chunk)

    def cut(value: str, rank: int, members: str, state: str) -> str:
        if not variant.aligned:
            value = _pad(body, value, body.op("Sub", whole, length), rank)
        if variant.form == "tree":
            return body.reshape(value, batch, groups, members, state, chunks, chunk)
        return body.reshape(
            body.op("Transpose", body.reshape(value, rest, chunk), perm=[1, 0]), chunk, batch, groups, members, state, chunks
        )

    def weight(name: str, state: str) -> str:
        behind = [one, one] if variant.form == "tree" else [one]
        return body.reshape(body.float32(name), groups, rest, state, *behind)

    recurrence = _Recurrence(
        body, variant, weight("A", states), weight("D", one), weight("delta_bias", one), cut(u, 3, rest, one), cut(delta, 3, rest, one),
        cut(b, 4, one, states), cut(c, 4, one, states),
    )  # fmt: skip
    if variant.form == "tree":
        y = recurrence.tree()
    else:
        lanes = body.concat(batch, groups, body.op("Div", channels, groups), states, chunks)
        y = body.op("Transpose", body.reshape(recurrence.loop(lanes), chunk, rest), perm=[1, 0])
    y = body.reshape(y, batch, channels, whole)
    return y if variant.aligned else body.op("Slice", y, body.ints(0), length, body.ints(2))


def chunk_of(form: Form, length: int) -> int:
    """Steps of a chunk for a length."""
    return _TREE_CHUNK if form == "tree" else max(chunk for least, chunk in _CHUNKS.items() if length >= least)


def _chunk(body: Body, form: Form, length: str) -> str:
    """``chunk_of`` a length that is a value of the graph."""
    if form == "tree":
        return body.ints(_TREE_CHUNK)
    reached = body.op("GreaterOrEqual", length, body.ints(*_CHUNKS))
    return body.op("ReduceMax", body.op("Where", reached, body.ints(*_CHUNKS.values()), body.ints(0)), keepdims=1)


def _pad(body: Body, value: str, padding: str, rank: int) -> str:
    """Add steps behind the last axis: nothing real comes after them."""
    return body.op("Pad", value, body.concat(body.ints(*[0] * (2 * rank - 1)), padding))


def softplus(body: Body, value: str) -> str:
    """``log(1 + exp(value))`` to a relative error below 1e-6 everywhere: runtimes' own Softplus loses small results, one's is slow.

    ``max(x, 0) + log1p(exp(-|x|))``, and ``log1p(exp(-a)) = 2 atanh(r / 2)`` with ``r = 1 / (exp(a) + 1/2)``: where exp overflows, r is 0.
    """
    r = body.op("Reciprocal", body.op("Add", body.op("Exp", body.op("Abs", value)), body.scalar(0.5)))
    square = body.op("Mul", r, r)
    series = body.scalar(_ATANH[-1])
    for coefficient in _ATANH[-2::-1]:
        series = body.op("Add", body.op("Mul", series, square), body.scalar(coefficient))
    return body.op("Add", body.op("Relu", value), body.op("Mul", r, series))


class _Recurrence:
    """One scan cut into chunks.

    ``loop`` has axes (steps, batch, group, channel, state, chunk), ``tree`` (batch, group, channel, state, chunk, steps); weights
    have those from group on. An axis that a tensor does not have is 1.
    """

    def __init__(self, body: Body, variant: ScanVariant, A: str, D: str, bias: str, u: str, delta: str, b: str, c: str) -> None:
        self.body, self.variant = body, variant
        self.A, self.D, self.bias = A, D, bias
        self.u, self.delta, self.b, self.c = u, delta, b, c
        self.softplus = [body.float32(body.attribute("delta_softplus", "int"))] if variant.delta_softplus is None else []

    def loop(self, lanes: str) -> str:
        """y (steps, batch, group, channel, 1, chunk); ``lanes`` is the shape of a step's state."""
        body, stored = self.body, self.variant.scalar_state
        zeros = body.op("ConstantOfShape", lanes)
        time = body.op("Slice", zeros, body.ints(0), body.ints(1), body.ints(3))
        weights = [self.A, self.bias, *self.softplus]
        state, time, *kept = self._over_steps(self._first_pass, [zeros, time], weights, [self.delta, self.u, self.b], 2 * stored)
        carry = self._carried(body.op("Mul", time, self.A), state, axis=4)
        second, again = (self._stored_pass, kept) if stored else (self._second_pass, [self.delta, self.b])
        return self._over_steps(second, [carry], [self.D] if stored else [self.D, *weights], [self.u, self.c, *again], 1)[1]

    def tree(self) -> str:
        """y (batch, group, channel, 1, chunk, steps)."""
        body = self.body
        dt = self._step_size(body, self.delta, self.bias, *self.softplus)
        decay, state = body.op("Mul", dt, self.A), self._entry(body, dt, self.u, self.b)
        decay, state = self._doubled(decay, state, 5, _TREE_CHUNK)
        ends = [body.op("Slice", value, body.ints(-1), body.ints(2**62), body.ints(5)) for value in (decay, state)]
        carry = self._carried(ends[0], ends[1], axis=4)
        state = body.op("Add", state, body.op("Mul", self._product(decay), carry))
        return self._output(body, state, self.c, self.u, self.D)

    def _first_pass(self, step: Body, states: list[str], weights: list[str], inputs: list[str]) -> list[str]:
        (state, time), (A, *bias), (delta, u, b) = states, weights, inputs
        dt = self._step_size(step, delta, *bias)
        decay, entry = self._decay(step, dt, A), self._entry(step, dt, u, b)
        kept = [decay, entry] if self.variant.scalar_state else []
        return [self._next(step, state, decay, entry), step.op("Add", time, dt), *kept]

    def _stored_pass(self, step: Body, states: list[str], weights: list[str], inputs: list[str]) -> list[str]:
        """With what the first pass kept: as small as delta where d_state is 1."""
        u, c, decay, entry = inputs
        state = self._next(step, states[0], decay, entry)
        return [state, self._output(step, state, c, u, weights[0])]

    def _second_pass(self, step: Body, states: list[str], weights: list[str], inputs: list[str]) -> list[str]:
        """Decays and entries are made again: d_state times the size of delta, they would be slower to read than to make."""
        (D, A, *bias), (u, c, delta, b) = weights, inputs
        dt = self._step_size(step, delta, *bias)
        state = self._next(step, states[0], self._decay(step, dt, A), self._entry(step, dt, u, b))
        return [state, self._output(step, state, c, u, D)]

    def _step_size(self, body: Body, delta: str, bias: str, softplus_wanted: str = "") -> str:
        delta = body.op("Add", delta, bias)
        if softplus_wanted:
            return body.op("Where", body.op("Cast", softplus_wanted, to=TensorProto.BOOL), softplus(body, delta), delta)
        return softplus(body, delta) if self.variant.delta_softplus else delta

    def _decay(self, body: Body, dt: str, A: str) -> str:
        return body.op("Exp", body.op("Mul", dt, A))

    def _entry(self, body: Body, dt: str, u: str, b: str) -> str:
        return body.op("Mul", body.op("Mul", dt, u), b)

    def _next(self, body: Body, state: str, decay: str, entry: str) -> str:
        return body.op("Add", body.op("Mul", state, decay), entry)

    def _output(self, body: Body, state: str, c: str, u: str, D: str) -> str:
        y = body.op("Mul", state, c)
        if not self.variant.scalar_state:
            y = body.op("ReduceSum", y, body.ints(3), keepdims=1)
        return body.op("Add", y, body.op("Mul", u, D))

    def _over_steps(self, record: _Record, states: list[str], weights: list[str], inputs: list[str], outputs: int) -> list[str]:
        """An ONNX Scan over the first axis of ``inputs``: the final states, then ``outputs`` stacked values.

        Weights are passed on as states: OpenVINO's Scan knows no values from outside.
        """
        step = self.body.inner()
        arguments = [[step.name("in") for _ in group] for group in (states, weights, inputs)]
        given = record(step, *arguments)
        passed = [step.op("Identity", weight) for weight in arguments[1]]
        graph = step.graph([name for group in arguments for name in group], [*given[: len(states)], *passed, *given[len(states) :]])
        carried = len(states) + len(weights)
        found = self.body.ops("Scan", [*states, *weights, *inputs], carried + outputs, num_scan_inputs=len(inputs), body=graph)
        return found[: len(states)] + found[carried:]

    def _carried(self, decay: str, state: str, axis: int) -> str:
        """The state every chunk starts from, given each chunk's log decay and final state."""
        return self._shifted(self._doubled(decay, state, axis, self.variant.chunks)[1], 1, axis)

    def _doubled(self, decay: str, state: str, axis: int, length: int) -> tuple[str, str]:
        """Log decays and states of all prefixes of up to ``length`` elements, from those of the elements."""
        distance = 1
        while distance < length:
            before = self._shifted(state, distance, axis)
            state = self.body.op("Add", state, self.body.op("Mul", self._product(decay), before))
            decay = self.body.op("Add", decay, self._shifted(decay, distance, axis))
            distance *= 2
        return decay, state

    def _product(self, decay: str) -> str:
        body = self.body
        return body.op("Exp", body.op("Clip", decay, body.scalar(_LEAST_EXPONENT), body.scalar(_MOST_EXPONENT)))

    def _shifted(self, value: str, distance: int, axis: int) -> str:
        """Each element replaced by the one ``distance`` before it, 0 where there is none."""
        body, rank = self.body, 5 + (self.variant.form == "tree")
        pads = [0] * (2 * rank)
        pads[axis] = distance
        padded = body.op("Pad", value, body.ints(*pads))
        return body.op("Slice", padded, body.ints(0), body.ints(-distance), body.ints(axis))
