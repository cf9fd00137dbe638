"""Calls a TensorRT plugin library as TensorRT would, through ops/tensorrt/null_host.cpp and ctypes: needs no TensorRT."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).parent / "ops" / "tensorrt" / "null_host.cpp"
FLOAT, HALF, INT8, BF16 = 0, 1, 2, 7  # nvinfer1::DataType
LINEAR, CHW2 = 0, 1  # nvinfer1::TensorFormat
FIELD_FLOAT32, FIELD_INT32, FIELD_CHAR, FIELD_INT64 = 1, 5, 6, 10  # nvinfer1::PluginFieldType
BUILD, RUNTIME = 0, 1  # nvinfer1::TensorRTPhase
CTYPES = {FIELD_FLOAT32: ctypes.c_float, FIELD_INT32: ctypes.c_int32, FIELD_INT64: ctypes.c_int64, FIELD_CHAR: ctypes.c_char}


class HostTensor(ctypes.Structure):
    """Type, format, shape and largest shape of a tensor."""

    _fields_ = [(name, ctypes.c_int32) for name in ("type", "format", "rank")] + [("dims", ctypes.c_int64 * 8), ("max", ctypes.c_int64 * 8)]


class PluginField(ctypes.Structure):
    """nvinfer1::PluginField."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("length", ctypes.c_int32)]


class FieldCollection(ctypes.Structure):
    """nvinfer1::PluginFieldCollection."""

    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(PluginField))]


def tensor(shape: Sequence[int], dtype: int = FLOAT, layout: int = LINEAR, most: Sequence[int] | None = None) -> HostTensor:
    """Describe a tensor; ``most`` is the largest shape of a profile where ``shape`` has -1."""
    described = HostTensor(dtype, layout, len(shape))
    described.dims[: len(shape)] = list(shape)
    described.max[: len(shape)] = list(most or shape)
    return described


@dataclass
class Plugin:
    """A plugin object of the library."""

    host: NullHost
    address: int

    def call(self, name: str, tensors: Sequence[HostTensor], *rest: object) -> int:
        """Call ``host_<name>(plugin, tensors, number of inputs, ...)``; the last tensor is the output."""
        array = (HostTensor * len(tensors))(*tensors)
        return getattr(self.host.library, f"host_{name}")(self.address, array, len(tensors) - 1, *rest)

    def supports(self, position: int, tensors: Sequence[HostTensor]) -> bool:
        """supportsFormatCombination at ``position``; the last tensor is the output."""
        array = (HostTensor * len(tensors))(*tensors)
        return bool(self.host.library.host_supports(self.address, position, array, len(tensors) - 1))

    def describe(self) -> list[str]:
        """Kinds of the three interfaces, name, version, namespace, number of outputs, timing-cache id."""
        return self.host.library.host_describe(self.address).decode().split("|")

    def copy(self, how: str) -> Plugin:
        """``clone`` or ``attach``."""
        return Plugin(self.host, getattr(self.host.library, f"host_{how}")(self.address))

    def fields(self) -> dict[str, tuple[int, list[float]]]:
        """What getFieldsToSerialize gives: name -> (type, values)."""
        collection = self.host.library.host_fields(self.address).contents
        return {
            item.name.decode(): (item.type, list((CTYPES[item.type] * item.length).from_address(item.data)))
            for item in collection.fields[: collection.count]
        }

    def destroy(self) -> None:
        """Free the object, as TensorRT does."""
        self.host.library.host_destroy(self.address)


@dataclass
class NullHost:
    """The host library with one plugin library loaded."""

    library: ctypes.CDLL
    names: list[str] = field(default_factory=list)

    def log(self) -> str:
        """What the plugin logged since the last call."""
        return self.library.host_log().decode()

    def create(self, name: str, fields: dict[str, tuple[int, Sequence[float]]], phase: int = BUILD) -> Plugin | None:
        """createPlugin; None where the library refuses."""
        buffers = [(CTYPES[kind] * len(values))(*values) for kind, values in fields.values()]
        array = (PluginField * max(len(fields), 1))(
            *(
                PluginField(key.encode(), ctypes.cast(buffer, ctypes.c_void_p), kind, len(values))
                for (key, (kind, values)), buffer in zip(fields.items(), buffers, strict=True)
            )
        )
        address = self.library.host_create(self.names.index(name), array, len(fields), phase)
        return Plugin(self, address) if address else None


def compile_host(nvcc: str, headers: Path, folder: Path) -> Path:
    """The host library; compiled by nvcc, which knows where CUDA's headers are."""
    made = folder / f"null_host_{os.getpid()}.so"
    flags = "-std=c++17 -shared -Xcompiler -fPIC,-w".split()
    subprocess.run([nvcc, *flags, f"-I{headers}", str(SOURCE), "-o", str(made), "-ldl"], check=True)
    return made


def open_library(host: Path, plugin: Path) -> NullHost:
    """Load the plugin library into the host.

    Raises:
        OSError: it cannot be loaded; the message is the loader's.
    """
    library = ctypes.CDLL(str(host))
    for name in ("create", "clone", "attach", "log", "creator", "describe", "fields"):
        getattr(library, f"host_{name}").restype = ctypes.c_void_p
    for name in ("log", "creator", "describe"):
        getattr(library, f"host_{name}").restype = ctypes.c_char_p
    library.host_fields.restype = ctypes.POINTER(FieldCollection)
    library.host_workspace.restype = ctypes.c_size_t
    for name in ("clone", "attach", "fields", "destroy", "describe"):
        getattr(library, f"host_{name}").argtypes = [ctypes.c_void_p]
    for name in ("output_shape", "output_type", "configure", "workspace", "shape_change"):
        getattr(library, f"host_{name}").argtypes = [ctypes.c_void_p, ctypes.POINTER(HostTensor), ctypes.c_int32]
    library.host_supports.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(HostTensor), ctypes.c_int32]
    library.host_enqueue.argtypes = [ctypes.c_void_p, ctypes.POINTER(HostTensor), ctypes.c_int32, *[ctypes.c_void_p] * 4]
    count = library.host_open(str(plugin).encode())
    opened = NullHost(library)
    if count < 0:
        raise OSError(opened.log())
    opened.names = [library.host_creator(index).decode().split("|")[1] for index in range(count)]
    return opened
