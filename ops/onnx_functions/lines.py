"""How the sequences of a scan lie in its tensors, and what is done along them: cut into chunks, summed, put into the order of a list.

A sequence is the last axis of (batch, groups, n, length), or the columns of (batch, groups, n, height, width), one after the other from
top to bottom. Cut into chunks of 16 steps, the tensors are (batch, groups, members, states, chunks, 16) and (batch, groups, members,
states, chunks of a column, 16, width), members or states 1 where they do not differ. Neither way moves anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segc.ops.onnx_functions.body import Body

CHUNK = 16
STEPS = 5  # axis of the steps of a chunk
_ONES = np.ones((CHUNK, CHUNK), np.float32)


@dataclass(frozen=True)
class Line:
    """Along rows or along columns, from the first step or from the last; ``aligned``: the axis is a multiple of the chunk."""

    columns: bool
    reverse: bool
    aligned: bool

    @property
    def rank(self) -> int:
        """Of tensors cut into chunks."""
        return 6 + self.columns

    def sequence(self, body: Body, maps: str) -> str:
        """Maps (batch, groups, n, height, width) as this line takes them."""
        return maps if self.columns else body.reshape(maps, body.ints(0, 0, 0, -1))

    def cut(self, body: Body, value: str, of_states: bool = False) -> str:
        """Into chunks, n being members or states; steps behind the end, or below a column, are zeros."""
        if not self.aligned:
            missing = body.op("Mod", body.op("Neg", body.size(value, 3)), body.ints(CHUNK))
            pads = [body.ints(*[0] * (7 + self.columns)), missing, *([body.ints(0)] if self.columns else [])]
            value = body.op("Pad", value, body.concat(*pads))
        value = body.op("Unsqueeze", value, body.ints(2 if of_states else 3))
        return body.reshape(value, body.ints(0, 0, 0, 0, -1, CHUNK), *([body.size(value, 5)] if self.columns else []))

    def joined(self, body: Body, value: str, like: str) -> str:
        """Back from chunks, of one state, to the sequences of ``like``."""
        value = body.reshape(value, body.ints(0, 0, 0, -1), *([body.size(like, 4)] if self.columns else []))
        return value if self.aligned else body.op("Slice", value, body.ints(0), body.size(like, 3), body.ints(3))

    def spread(self, body: Body, weight: str) -> str:
        """A weight (groups, members, states) against tensors in chunks."""
        return body.op("Unsqueeze", weight, body.ints(*range(3, self.rank - 1)))

    def total(self, body: Body, value: str) -> str:
        """Sums of whole chunks, (.., chunks, 1, ..)."""
        return body.op("ReduceSum", value, body.ints(STEPS)) if self.columns else body.op("MatMul", value, body.constant(_ONES[:, :1]))

    def running(self, body: Body, value: str, factor: str) -> str:
        """Running sums of finite numbers in every chunk, times a factor (groups, members, 1, 1, .., 1) of ``spread``.

        A row is multiplied by a triangle of factors, columns are added row by row.
        """
        if self.columns:
            return body.op("Mul", self._added(body, value), factor)
        return body.op("MatMul", value, body.op("Mul", factor, self._triangle(body)))

    def running_from(self, body: Body, first: str, value: str) -> str:
        """Running sums of finite numbers, from a first value of each chunk."""
        if self.columns:
            return body.op("Add", self._added(body, value), first)
        rows = [body.reshape(tensor, body.ints(-1, size)) for tensor, size in ((value, CHUNK), (first, 1))]
        return body.reshape(body.op("Gemm", rows[0], self._triangle(body), rows[1]), body.op("Shape", value))

    def _added(self, body: Body, value: str) -> str:
        """Running sums of columns. With few axes: ONNX Runtime steps through every one of them for each row."""
        flat = body.reshape(value, body.ints(-1, CHUNK), body.size(value, 6))
        sums = body.op("CumSum", flat, body.constant(np.array(1)), reverse=int(self.reverse))
        return body.reshape(sums, body.op("Shape", value))

    def _triangle(self, body: Body) -> str:
        return body.constant(np.tril(_ONES) if self.reverse else np.triu(_ONES))

    def last(self, body: Body, value: str) -> str:
        """The last step of every chunk."""
        start = 0 if self.reverse else CHUNK - 1
        return body.op("Slice", value, body.ints(start), body.ints(start + 1), body.ints(STEPS))

    def steps_first(self, body: Body, value: str) -> str:
        """The steps of a chunk as the first axis, in the order of the recurrence."""
        others = [axis for axis in range(self.rank) if axis != STEPS]
        value = body.op("Transpose", value, perm=[STEPS, *others])
        return flipped(body, value, 0) if self.reverse else value

    def steps_back(self, body: Body, value: str) -> str:
        """Undo ``steps_first``."""
        value = flipped(body, value, 0) if self.reverse else value
        return body.op("Transpose", value, perm=[*range(1, STEPS + 1), 0, *range(STEPS + 1, self.rank)])

    def ordered(self, body: Body, chunks: str) -> str:
        """One value a chunk (.., chunks, 1, ..) -> (batch, groups, members, states, all chunks of the sequence), in their order."""
        if self.columns:
            chunks = body.op("Transpose", chunks, perm=[0, 1, 2, 3, 6, 4, 5])
        chunks = body.reshape(chunks, body.ints(0, 0, 0, 0, -1))
        return flipped(body, chunks, 4) if self.reverse else chunks

    def unordered(self, body: Body, values: str, like: str) -> str:
        """Undo ``ordered``; ``like`` is what it was given."""
        values = flipped(body, values, 4) if self.reverse else values
        if not self.columns:
            return body.op("Unsqueeze", values, body.ints(STEPS))
        values = body.reshape(values, body.ints(0, 0, 0, 0), body.size(like, 6), body.size(like, 4))
        return body.op("Unsqueeze", body.op("Transpose", values, perm=[0, 1, 2, 3, 5, 4]), body.ints(STEPS))


def flipped(body: Body, value: str, axis: int) -> str:
    """An axis backwards."""
    return body.op("Slice", value, body.ints(-1), body.ints(-(2**62)), body.ints(axis), body.ints(-1))
