"""Compile kernels for GPUs that are not here, and read what they use: registers, shared memory, spills."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segc.ops.triton_kernels.launch import Launch

# Compute capability (87 is 8.7: Jetson Orin; 110: Jetson Thor) -> KiB of shared memory one program may have (CUDA C++ guide, table of
# technical specifications per compute capability).
SHARED_KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 110: 227, 120: 99}
CAPABILITIES = tuple(SHARED_KIB)
STACK_LIMIT = 64  # bytes a thread: a few spilled registers outside the inner loop cost less than smaller tiles
# Triton has no tensor cores for compute capability 7.5: it holds whole rows in registers and spills, which is slow and right.
FMA_STACK_LIMIT = 2048
TENSOR_CORES_SINCE = BFLOAT16_SINCE = 80
WARP = 32
_DIVISOR = 16  # Triton compiles a variant for pointers and integers that are multiples of 16
_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}

# Modules with a function ``examples() -> dict[str, list[Launch]]``: launches on meta tensors, by name of the configuration.
MODULES: tuple[str, ...] = ("scan_examples", "attention_examples")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one GPU: registers per thread, bytes of shared memory per program, bytes of stack per thread (spills)."""

    registers: int
    shared: int
    stack: int


def examples() -> dict[str, Launch]:
    """Every launch to compile, by name: ``configuration/index kernel``."""
    found: dict[str, Launch] = {}
    for module in MODULES:
        configurations = importlib.import_module(f"segc.ops.triton_kernels.{module}").examples()
        for name, launches in configurations.items():
            found |= {f"{name}/{index} {launch.kernel.__name__.lstrip('_')}": launch for index, launch in enumerate(launches)}
    return found


def runs_on(launch: Launch, capability: int) -> bool:
    """False for bfloat16 on a GPU that has none."""
    tensors = (value for value in launch.arguments.values() if isinstance(value, torch.Tensor))
    return capability >= BFLOAT16_SINCE or all(tensor.dtype != torch.bfloat16 for tensor in tensors)


def compile_for(launch: Launch, capability: int) -> Any:
    """Compile one launch for a compute capability (``87`` is 8.7); no GPU is needed."""
    return triton.compile(_source(launch), target=GPUTarget("cuda", capability, WARP), options=launch.options)


def usage(compiled: Any) -> Usage:
    """Resources of a compiled kernel, read from its machine code by ``cuobjdump``; shared memory as Triton will ask for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Usage(_field(text, "REG"), int(compiled.metadata.shared), _field(text, "STACK"))


def too_much(used: Usage, capability: int) -> str:
    """What a kernel takes beyond the limits, as words; empty when it fits."""
    if used.shared > SHARED_KIB[capability] * 1024:
        return f"{used.shared} bytes of shared memory; compute capability {capability} has {SHARED_KIB[capability]} KiB"
    limit = STACK_LIMIT if capability >= TENSOR_CORES_SINCE else FMA_STACK_LIMIT
    if used.stack > limit:
        return f"{used.stack} bytes of stack a thread; at most {limit} may be spilled"
    return ""


def _field(text: str, name: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump names no {name}: {text}")
    return int(found[1])


def _source(launch: Launch) -> ASTSource:
    """The source Triton would build for these arguments: types, constants, and which values are multiples of 16."""
    signature: dict[str, Any] = {}
    constants: dict[str | tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, tuple):
            signature[parameter.name] = tuple(_argument((index, at), item, constants, attributes) for at, item in enumerate(value))
        else:
            signature[parameter.name] = _argument((index,), value, constants, attributes)
    return ASTSource(launch.kernel, signature, constants, attributes)


def _argument(path: tuple[int, ...], value: Any, constants: dict[Any, Any], attributes: dict[tuple[int, ...], list[list[Any]]]) -> str:
    """Type of one value; None and 1 become constants, and what is a multiple of 16 is marked."""
    if value is None or (isinstance(value, int) and value == 1):
        constants[path] = value
        return "constexpr"
    if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % _DIVISOR == 0):
        attributes[path] = [["tt.divisibility", _DIVISOR]]
    return _type(value)


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"
