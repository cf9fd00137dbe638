"""Read ``metadata_props`` of an ONNX file, and whether it has functions, without the onnx package, which a runtime install does not have.

An ONNX file is one protobuf message; its top-level fields are skipped by their length until field 14 (``metadata_props``) or 25
(``functions``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segc.core.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

_METADATA_PROPS, _FUNCTIONS = 14, 25
# Message -> number of a field that holds further messages -> which: the way from a model to its tensors.
_WAY = {
    "model": {7: "graph", _FUNCTIONS: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_metadata(path: Path) -> dict[str, str]:
    """key -> value of the file's ``metadata_props``.

    Raises:
        UserError: the file is missing or not a protobuf message.
    """
    data = _read(path)
    try:
        entries = [dict(_fields(value)) for number, value in _fields(data) if number == _METADATA_PROPS]
        return {bytes(entry[1]).decode(): bytes(entry.get(2, memoryview(b""))).decode() for entry in entries}
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not an ONNX file, or it is damaged.") from error


def has_functions(path: Path) -> bool:
    """True when the file has model-local functions.

    Raises:
        UserError: the file is missing or not a protobuf message.
    """
    try:
        return any(number == _FUNCTIONS for number, _ in _fields(_read(path)))
    except (IndexError, ValueError) as error:
        raise UserError(f"{path} is not an ONNX file, or it is damaged.") from error


def refuse_external_data(path: Path) -> None:
    """Refuse a graph whose weights lie in other files: it may be anyone's, and it could name any file of this machine.

    Raises:
        UserError: it has such a tensor, or is missing or not a protobuf message.
    """
    try:
        external = _names_files(_read(path), "model")
    except (IndexError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not an ONNX file, or it is damaged.") from error
    if external:
        raise UserError(f"{path} keeps weights in other files (ONNX external data), which are not read.", "Save it as one file.")


def load_graph(path: Path) -> ModelProto:
    """A graph with all of its weights; needs the onnx package.

    Raises:
        UserError: see ``refuse_external_data``.
    """
    import onnx

    refuse_external_data(path)
    model: ModelProto = onnx.load(path)
    return model


def _names_files(data: memoryview, kind: str) -> bool:
    if kind == "tensor":
        return any(number == _EXTERNAL_DATA for number, _ in _fields(data))
    return any(_names_files(value, _WAY[kind][number]) for number, value in _fields(data) if number in _WAY[kind])


def _read(path: Path) -> memoryview:
    try:
        return memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of every length-delimited field of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field runs past the end")
            yield number, data[at : at + size]
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint is too long")
