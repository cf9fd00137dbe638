"""The recurrence ``h = exp(dt A) h + entry B`` of a scan whose sequences are cut into chunks: in the chunks, and from chunk to chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from segc.ops.onnx_functions.body import Body
from segc.ops.onnx_functions.lines import CHUNK, STEPS, Line

# Exponents of a product of decays: e^-80 is nothing beside any state a float32 holds next to it and not yet a denormal; e^88 is finite.
_LEAST_EXPONENT, _MOST_EXPONENT = -80.0, 88.0
# Where running sums are safe. Their terms are entries times B divided by decays down to e^-50, 16 of them: below 3e38 while entry and B
# stay below the root of 1e15. Rounding of an exponent below 50 errs by 4e-6.
_MOST_DECAY, _MOST_SQUARES = 50.0, 1e15
_GROUP = 16  # chunks that are gone through while others are, side by side
_MOST_STEPS = 32  # chunks that are gone through one by one
_CHUNKS = 4  # axis of the chunks of a sequence where there is one value a chunk


@dataclass(frozen=True)
class Recurrence:
    """One scan: A (groups, members, states) spread, the others in the chunks of the line (``lines``); ``scalar_state``: of one state."""

    line: Line
    A: str
    dt: str
    entry: str
    b: str
    c: str
    scalar_state: bool

    def over_states(self, body: Body, value: str) -> str:
        """The sum over the states."""
        return value if self.scalar_state else body.op("ReduceSum", value, body.ints(3))


@dataclass(frozen=True)
class _Sums:
    """A scan of one state by running sums: with ``E = exp(A t)``, t from the chunk's beginning, ``h = E (carry + sum of entry B / E)``.

    ``decay`` is E, ``value`` entry B / E; ``time`` and ``end`` of each chunk are its exponent and the state it ends with from zero.
    """

    scan: Recurrence
    decay: str
    value: str
    time: str
    end: str


def by_sums(body: Body, scans: Iterable[Recurrence], chunks: int, positive: bool) -> list[str]:
    """The sum over the states of C h of each scan, for CPUs: by running sums where they are safe, else step by step.

    Sums are a pass over all states for every operation, steps keep those of a step in the cache: more states than one go in steps.

    Args:
        body: to record in.
        scans: whose states are carried from chunk to chunk together; recorded one after the other, so that a cache may hold one.
        chunks: upper bound of the chunks of a sequence.
        positive: no dt is negative.
    """
    sums, plain = [], []
    for scan in scans:
        plain.append(scan)
        if scan.scalar_state:
            sums.append(_summed(body, scan))
    if not sums:
        return _stepped(body, plain, chunks)
    safe = reduce(lambda one, other: body.op("And", one, other), [_safe(body, one, positive) for one in sums])
    return body.either(safe, lambda branch: _finished(branch, sums, chunks), lambda branch: _stepped(branch, plain, chunks))


def _summed(body: Body, scan: Recurrence) -> _Sums:
    decay = body.op("Exp", scan.line.running(body, scan.dt, scan.A))
    value = body.op("Div", body.op("Mul", scan.entry, scan.b), decay)
    time = body.op("Mul", scan.line.total(body, scan.dt), scan.A)
    return _Sums(scan, decay, value, time, body.op("Mul", body.op("Exp", time), scan.line.total(body, value)))


def _safe(body: Body, sums: _Sums, positive: bool) -> str:
    """Whether running sums neither overflow nor lose what counts; a number that is not finite is not less."""
    scan = sums.scan
    longest = sums.time if positive else body.op("Mul", scan.line.total(body, body.op("Abs", scan.dt)), scan.A)
    safe = body.op("Less", body.op("ReduceMax", body.op("Abs", longest), keepdims=0), body.scalar(_MOST_DECAY))
    for value in (scan.entry, scan.b):
        small = body.op("Less", body.op("ReduceSumSquare", value, keepdims=0), body.scalar(_MOST_SQUARES))
        safe = body.op("And", safe, small)
    return safe


def _finished(body: Body, sums: Sequence[_Sums], chunks: int) -> list[str]:
    scans = [one.scan for one in sums]
    carries = _carried(body, scans, [one.time for one in sums], [one.end for one in sums], chunks)
    found = []
    for one, carry in zip(sums, carries, strict=True):
        h = body.op("Mul", one.scan.line.running_from(body, carry, one.value), one.decay)
        found.append(body.op("Mul", h, one.scan.c))
    return found


def _stepped(body: Body, scans: Sequence[Recurrence], chunks: int) -> list[str]:
    """Step by step, the chunks side by side: to the state each ends with, and again from the state each begins with."""
    inputs = [[scan.line.steps_first(body, value) for value in (scan.dt, scan.entry, scan.b, scan.c)] for scan in scans]
    times = [body.op("Mul", body.op("ReduceSum", scan.dt, body.ints(STEPS)), scan.A) for scan in scans]
    weights = [body.op("Squeeze", scan.A, body.ints(STEPS - 1)) for scan in scans]

    def end(step: Body, state: str, A: str, dt: str, entry: str, b: str) -> list[str]:
        decay = step.op("Exp", step.op("Mul", dt, A))
        return [step.op("Add", step.op("Mul", state, decay), step.op("Mul", entry, b)), step.op("Identity", A)]

    def output(step: Body, state: str, A: str, dt: str, entry: str, b: str, c: str) -> list[str]:
        after = end(step, state, A, dt, entry, b)
        return [*after, scans[0].over_states(step, step.op("Mul", after[0], c))]

    ends = []
    for steps, time, A in zip(inputs, times, weights, strict=True):
        zeros = body.op("Squeeze", _zeros(body, time), body.ints(STEPS))
        ends.append(body.op("Unsqueeze", body.scan([zeros, A], steps[:3], end)[0], body.ints(STEPS)))
    begins = [body.op("Squeeze", carry, body.ints(STEPS)) for carry in _carried(body, scans, times, ends, chunks)]
    runs = [body.scan([begin, A], steps, output)[2] for begin, A, steps in zip(begins, weights, inputs, strict=True)]
    return [scan.line.steps_back(body, y) for scan, y in zip(scans, runs, strict=True)]


def by_doubling(body: Body, scans: Iterable[Recurrence], chunks: int) -> list[str]:
    """What ``by_sums`` gives, for GPUs: without a branch or a loop (Hillis and Steele, CACM 29:12, 1986)."""
    return [_doubled_twice(body, scan, chunks) for scan in scans]


def _doubled_twice(body: Body, scan: Recurrence, chunks: int) -> str:
    """Inside the chunks, then from chunk to chunk."""
    line, exponent, h = scan.line, body.op("Mul", scan.dt, scan.A), body.op("Mul", scan.entry, scan.b)
    exponent, h = _doubled(body, exponent, h, STEPS, line.rank, CHUNK, line.reverse)
    ends = [line.ordered(body, line.last(body, value)) for value in (exponent, h)]
    carry = _shifted(body, _doubled(body, ends[0], ends[1], _CHUNKS, _CHUNKS + 1, chunks)[1], 1, _CHUNKS, _CHUNKS + 1)
    carry = line.unordered(body, carry, line.last(body, h))
    return scan.over_states(body, body.op("Mul", body.op("Add", h, body.op("Mul", _product(body, exponent), carry)), scan.c))


def _carried(body: Body, scans: Sequence[Recurrence], exponents: Sequence[str], states: Sequence[str], chunks: int) -> list[str]:
    """What each chunk of each scan begins with, from the exponent of its decay and the state it ends with from zero."""
    lines = [scan.line for scan in scans]
    ordered = [[line.ordered(body, value) for line, value in zip(lines, values, strict=True)] for values in (exponents, states)]
    if len(scans) > 1 and lines[0].aligned:  # columns have as many chunks as rows
        together = [body.concat(*values, axis=1) for values in ordered]
        before = body.split(_before_chunks(body, together[0], together[1], chunks), [1] * len(scans), axis=1)
    else:
        before = [_before_chunks(body, exponent, state, chunks) for exponent, state in zip(*ordered, strict=True)]
    return [line.unordered(body, value, state) for line, value, state in zip(lines, before, states, strict=True)]


def _before_chunks(body: Body, exponent: str, state: str, chunks: int) -> str:
    """The state before each of up to ``chunks``: step by step, groups of chunks side by side, and the groups by the same again."""
    if chunks <= _MOST_STEPS:
        steps = [body.op("Transpose", value, perm=[4, 0, 1, 2, 3]) for value in (_product(body, exponent), state)]
        zeros = _zeros(body, body.op("ReduceSum", steps[1], body.ints(0), keepdims=0))
        before = body.op("Transpose", body.scan([zeros], steps, _before)[1], perm=[1, 2, 3, 4, 0])
        # A sum: TensorRT-RTX 1.7 fails where one loop begins with what another gives, transposed.
        return body.op("Add", before, _zeros(body, state))
    count = body.size(state, _CHUNKS)
    pads = body.concat(body.ints(*[0] * 9), body.op("Mod", body.op("Neg", count), body.ints(_GROUP)))
    cut = [body.reshape(body.op("Pad", value, pads), body.ints(0, 0, 0, 0, -1, _GROUP)) for value in (exponent, state)]
    exponent, entry = (body.op("Transpose", value, perm=[5, 0, 1, 2, 3, 4]) for value in cut)
    decay, time = _product(body, exponent), body.op("ReduceSum", exponent, body.ints(0), keepdims=0)
    ends = body.scan([_zeros(body, time)], [decay, entry], _next)[0]
    carry = _before_chunks(body, time, ends, -(-chunks // _GROUP))
    states = body.op("Transpose", body.scan([carry], [decay, entry], _before)[1], perm=[1, 2, 3, 4, 5, 0])
    return body.op("Slice", body.reshape(states, body.ints(0, 0, 0, 0, -1)), body.ints(0), count, body.ints(_CHUNKS))


def _next(step: Body, state: str, decay: str, entry: str) -> list[str]:
    return [step.op("Add", step.op("Mul", state, decay), entry)]


def _before(step: Body, state: str, decay: str, entry: str) -> list[str]:
    return [*_next(step, state, decay, entry), step.op("Identity", state)]


def _zeros(body: Body, like: str) -> str:
    return body.op("ConstantOfShape", body.op("Shape", like))


def _doubled(body: Body, exponent: str, state: str, axis: int, rank: int, length: int, reverse: bool = False) -> tuple[str, str]:
    """Exponents and states of all prefixes of up to ``length`` elements of an axis, from those of the elements."""
    distance = 1
    while distance < length:
        before = _shifted(body, state, distance, axis, rank, reverse)
        state = body.op("Add", state, body.op("Mul", _product(body, exponent), before))
        exponent = body.op("Add", exponent, _shifted(body, exponent, distance, axis, rank, reverse))
        distance *= 2
    return exponent, state


def _product(body: Body, exponent: str) -> str:
    return body.op("Exp", body.op("Clip", exponent, body.scalar(_LEAST_EXPONENT), body.scalar(_MOST_EXPONENT)))


def _shifted(body: Body, value: str, distance: int, axis: int, rank: int, reverse: bool = False) -> str:
    """Each element replaced by the one ``distance`` before it (behind it, in reverse), 0 where there is none."""
    pads = [0] * (2 * rank)
    pads[axis + rank * reverse] = distance
    start, end = (distance, 2**62) if reverse else (0, -distance)
    return body.op("Slice", body.op("Pad", value, body.ints(*pads)), body.ints(start), body.ints(end), body.ints(axis))
