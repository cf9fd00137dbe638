"""The TensorRT plugin's kernels on the host: compiled with the machine's C++ compiler, called through ctypes with torch tensors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

import segc.ops.tensorrt

SOURCES = Path(__file__).parent / "ops" / "tensorrt"
KERNELS = Path(segc.ops.tensorrt.__file__).parent / "kernels"
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
FLAGS = "-DSEGC_EMULATED -std=c++17 -O2 -fPIC -shared -U_FORTIFY_SOURCE -Wall -Wextra -Werror".split()


class ScanProblem(ctypes.Structure):
    """kernels/scan.h."""

    _fields_ = (
        [("type", ctypes.c_int32)]
        + [(name, ctypes.c_int32) for name in ("batch", "channels", "height", "width", "states", "groups")]
        + [(name, ctypes.c_bool) for name in ("cross", "softplus", "reverse")]
        + [(name, ctypes.c_void_p) for name in ("u", "delta", "B", "C", "A", "D", "bias", "y")]
    )


class AttentionProblem(ctypes.Structure):
    """kernels/attention.h."""

    _fields_ = (
        [("type", ctypes.c_int32)]
        + [(name, ctypes.c_int32) for name in ("batch", "height", "width", "heads", "head_dim")]
        + [("kernel", ctypes.c_int32 * 2), ("dilation", ctypes.c_int32 * 2), ("scale", ctypes.c_float), ("bias_is_float", ctypes.c_bool)]
        + [(name, ctypes.c_void_p) for name in ("q", "k", "v", "rpb", "y")]
    )


def find_compiler() -> str | None:
    """A C++ compiler."""
    return shutil.which("g++") or shutil.which("c++")


def run_broken_kernel(folder: Path) -> subprocess.CompletedProcess[str] | None:
    """Run a kernel with a wrong barrier, or None without a C++ compiler."""
    compiler, made = find_compiler(), folder / "broken_kernel"
    if compiler is None:
        return None
    flags = [flag for flag in FLAGS if flag != "-shared"]
    subprocess.run([compiler, *flags, f"-I{KERNELS}", str(SOURCES / "broken_kernel.cpp"), "-o", str(made)], check=True)
    return subprocess.run([str(made)], capture_output=True, text=True, check=False)


def compile_kernels(folder: Path) -> ctypes.CDLL | None:
    """The kernels as a library of the host, or None without a C++ compiler."""
    compiler = find_compiler()
    if compiler is None:
        return None
    library = folder / "host_kernels.so"
    sources = [str(SOURCES / "host_kernels.cpp"), "-x", "c++", str(KERNELS / "scan.cu"), str(KERNELS / "attention.cu")]
    subprocess.run([compiler, *FLAGS, f"-I{KERNELS}", *sources, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.host_scan_workspace.restype = ctypes.c_size_t
    return loaded


def scan_problem(u: Tensor, B: Tensor, cross: bool) -> ScanProblem:
    """Dimensions and type only, without pointers."""
    height, width = u.shape[2:] if cross else (1, u.shape[2])
    return ScanProblem(TYPES[u.dtype], u.shape[0], u.shape[1], height, width, B.shape[2], B.shape[1], cross)


def scan(library: ctypes.CDLL, tensors: dict[str, Tensor | None], softplus: bool, reverse: bool, multiprocessors: int) -> Tensor:
    """Run the scan kernels; a map (rank 4) is scanned along four directions."""
    u, B = tensors["u"], tensors["B"]
    assert u is not None and B is not None
    y = torch.full_like(u, torch.nan)
    problem = scan_problem(u, B, u.dim() == 4)
    problem.softplus, problem.reverse, problem.y = softplus, reverse, y.data_ptr()
    for name, tensor in tensors.items():
        setattr(problem, name, None if tensor is None else tensor.data_ptr())
    assert library.host_scan(ctypes.byref(problem), multiprocessors) == 0
    return y


def attention(
    library: ctypes.CDLL,
    qkv: tuple[Tensor, Tensor, Tensor],
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
    rpb: Tensor | None,
    tensor_cores: bool,
) -> Tensor:
    """Run the attention kernel."""
    q, k, v = qkv
    y = torch.full_like(q, torch.nan)
    problem = AttentionProblem(TYPES[q.dtype], *q.shape, scale=scale)
    problem.kernel[:], problem.dilation[:] = kernel, dilation
    problem.bias_is_float = rpb is not None and rpb.dtype == torch.float32
    for name, tensor in zip(("q", "k", "v", "rpb", "y"), (q, k, v, rpb, y), strict=True):
        setattr(problem, name, None if tensor is None else tensor.data_ptr())
    assert library.host_attention(ctypes.byref(problem), int(tensor_cores)) == 0
    return y
