"""The TensorRT plugin's kernels with torch tensors: compiled for the host and called through ctypes, or enqueued by a plugin object."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import null_host
import torch
from torch import Tensor

import segc.ops.tensorrt
from segc.ops.tensorrt.build import sources

SOURCES = Path(__file__).parent / "ops" / "tensorrt"
KERNELS = Path(segc.ops.tensorrt.__file__).parent / "kernels"
DATA_TYPES = {torch.float32: null_host.FLOAT, torch.float16: null_host.HALF, torch.bfloat16: null_host.BF16}
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
FLAGS = "-DSEGC_EMULATED -std=c++17 -O1 -fPIC -shared -U_FORTIFY_SOURCE -Wall -Wextra -Werror".split()


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


def scan_inputs(
    dtype: torch.dtype, batch: int, channels: int, places: tuple[int, ...], states: int, groups: int, optional: bool = True
) -> dict[str, Tensor | None]:
    """Random inputs of a scan in the order of its signature; two-dimensional ``places`` make them those of a cross scan."""
    wide = channels * (4 if len(places) == 2 else 1)
    return {
        "u": torch.randn(batch, channels, *places).to(dtype),
        "delta": (torch.randn(batch, wide, *places) * 0.7).to(dtype),
        "A": -torch.rand(wide, states) * 2 - 0.01,
        "B": torch.randn(batch, groups, states, *places).to(dtype),
        "C": torch.randn(batch, groups, states, *places).to(dtype),
        "D": torch.randn(wide) if optional else None,
        "delta_bias": torch.randn(wide) * 0.3 if optional else None,
    }


def error_of(found: Tensor, wanted: Tensor) -> float:
    """Largest error, of the largest magnitude of ``wanted``."""
    assert found.isfinite().all()
    return ((found.double().cpu() - wanted).abs().max() / wanted.abs().max()).item()


def compile_emulated_plugin(nvcc: str, headers: Path, folder: Path) -> Path:
    """The whole plugin library with its kernels emulated: ``enqueue`` takes pointers of the host."""
    made = folder / "emulated_plugin.so"
    flags = "-x c++ -DSEGC_EMULATED -std=c++17 -O1 -shared -Xcompiler -fPIC,-w,-fvisibility=hidden,-U_FORTIFY_SOURCE".split()
    subprocess.run([nvcc, *flags, f"-I{KERNELS}", f"-I{headers}", *map(str, sources()), "-o", str(made)], check=True)
    return made


def enqueue(plugin: null_host.Plugin, inputs: Sequence[Tensor]) -> Tensor:
    """Run the plugin with a workspace of the stated size; the output is shaped and typed as the first input."""
    output = torch.full_like(inputs[0], torch.nan)
    described = [null_host.tensor(item.shape, DATA_TYPES[item.dtype]) for item in (*inputs, output)]
    assert plugin.call("configure", described) == 0, plugin.host.log()
    assert plugin.call("shape_change", described) == 0, plugin.host.log()
    workspace = torch.full((plugin.call("workspace", described) + 256,), 255, dtype=torch.uint8, device=output.device)
    code = plugin.call("enqueue", described, *pointers(inputs, output, workspace))
    assert code == 0, plugin.host.log()
    if output.is_cuda:
        torch.cuda.current_stream().synchronize()
    assert (workspace[-256:] == 255).all(), "wrote beyond the workspace"
    return output


def pointers(inputs: Sequence[Tensor], output: Tensor, workspace: Tensor) -> list[object]:
    """The last arguments of ``enqueue``; keep the list until it returned."""
    data = (ctypes.c_void_p * len(inputs))(*[item.data_ptr() for item in inputs])
    stream = torch.cuda.current_stream().cuda_stream if output.is_cuda else None
    return [data, output.data_ptr(), workspace.data_ptr(), stream]
