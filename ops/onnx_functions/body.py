"""Record the nodes of a function body: each method adds a node and returns the name of what it gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from segc.core.errors import UserError
from segc.ops.onnx_functions.signature import DOMAIN, PLUGIN_ATTRIBUTES, Signature

OLDEST_OPSET = 17
_REFERENCES = {
    "int": ("value_int", AttributeProto.INT),
    "ints": ("value_ints", AttributeProto.INTS),
    "float": ("value_float", AttributeProto.FLOAT),
}


class Body:
    """The nodes of one function, in order. Operators are those of opset 17 whose meaning has not changed since.

    >>> body = Body()
    >>> doubled = body.op("Mul", "x", body.floats(2.0))
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._names = itertools.count(1)

    def name(self, kind: str) -> str:
        """A name no other value of this body has."""
        return f"{kind}_{next(self._names)}"

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of the standard domain with one output."""
        output = self.name(op_type)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def ops(self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        names = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=names[0], **attributes))
        return names

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """A constant tensor; equal ones are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(value))
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def attribute(self, name: str, kind: str) -> str:
        """The value of one of the function's own attributes, as a tensor: a scalar, or a vector for ``ints``."""
        field, kind_of = _REFERENCES[kind]
        node = helper.make_node("Constant", [], [self.name(name)])
        node.name = node.output[0]
        item = node.attribute.add()
        item.name, item.ref_attr_name, item.type = field, name, kind_of
        self.nodes.append(node)
        return str(node.output[0])

    def float32(self, value: str) -> str:
        """Cast to float32."""
        return self.op("Cast", value, to=TensorProto.FLOAT)

    def concat(self, *values: str, axis: int = 0) -> str:
        """Join tensors along an axis."""
        return self.op("Concat", *values, axis=axis)

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut a tensor into pieces of these sizes."""
        return self.ops("Split", [value, self.ints(*sizes)], len(sizes), axis=axis)

    def size(self, value: str, axis: int) -> str:
        """Size of one axis, as an int64 vector of one."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def reshape(self, value: str, *sizes: str) -> str:
        """Reshape to the sizes given, each an int64 vector."""
        return self.op("Reshape", value, self.concat(*sizes) if len(sizes) > 1 else sizes[0])

    def inner(self) -> Body:
        """A body for a graph attribute of one of this body's nodes; it may use values of this one."""
        body = Body()
        body._names = self._names
        return body

    def either(self, condition: str, then: Callable[[Body], list[str]], otherwise: Callable[[Body], list[str]]) -> list[str]:
        """What ``then`` records where the condition holds, else what ``otherwise`` records; float32."""
        branches, outputs = {}, 0
        for name, record in (("then_branch", then), ("else_branch", otherwise)):
            branch = self.inner()
            values = record(branch)
            branches[name], outputs = branch.graph([], values), len(values)
        return self.ops("If", [condition], outputs, **branches)

    def scan(self, states: Sequence[str], inputs: Sequence[str], record: Callable[..., list[str]]) -> list[str]:
        """Go over the first axis of the inputs: the last states, then stacked values; float32.

        ``record(body, *states, *inputs)`` records a step and returns the next states, then the values to stack, each made by a node of its
        own. It may use no value from outside: OpenVINO's Scan knows none.
        """
        step = self.inner()
        names = [step.name("in") for _ in (*states, *inputs)]
        outputs = record(step, *names)
        graph = step.graph(names, outputs)
        return self.ops("Scan", [*states, *inputs], len(outputs), num_scan_inputs=len(inputs), body=graph)

    def graph(self, inputs: Sequence[str], outputs: Sequence[str]) -> GraphProto:
        """The recorded nodes as a graph of float32 values of any shape."""
        given, found = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names] for names in (inputs, outputs))
        return helper.make_graph(self.nodes, self.name("graph"), given, found)


def function(signature: Signature, record: Callable[[Body], str], inputs: Sequence[str], opset: int) -> FunctionProto:
    """The function of an operator.

    Args:
        signature: its name, output and attributes.
        record: records the body on the names in ``inputs`` and returns its result.
        inputs: required and present optional inputs.
        opset: of the model it is for.

    Raises:
        UserError: an opset older than the bodies are written for.
    """
    if opset < OLDEST_OPSET:
        raise UserError(f"opset {opset} is too old for {DOMAIN}.{signature.op_type}: its body needs at least {OLDEST_OPSET}.")
    body = Body()
    body.nodes.append(helper.make_node("Identity", [record(body)], [signature.output], name="output"))
    attributes = [*signature.attributes, *PLUGIN_ATTRIBUTES]
    return helper.make_function(
        DOMAIN, signature.op_type, list(inputs), [signature.output], body.nodes, [helper.make_opsetid("", opset)], attributes
    )
