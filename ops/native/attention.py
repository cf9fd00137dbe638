"""Neighbourhood attention by the compiled kernels of ``ops/native/attention.cpp``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from segc.ops.checks import Window
from segc.ops.native.library import native_library
from segc.ops.reference import accumulation_dtype

_KINDS = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
_ALIGNMENT = 64


class _Shape(ctypes.Structure):
    _fields_ = [
        ("batch_to_head_dim", ctypes.c_int64 * 5),
        ("kernel_size", ctypes.c_int64 * 2),
        ("dilation", ctypes.c_int64 * 2),
    ]


class _Strided(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 5)]


class _Call(ctypes.Structure):
    _fields_ = [
        ("shape", _Shape),
        ("kind", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("scale", ctypes.c_double),
        *((name, _Strided) for name in ("q", "k", "v", "grad")),
        *((name, ctypes.c_void_p) for name in ("bias", "out", "dq", "dk", "dv", "dbias", "workspace")),
    ]


def attention(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None) -> Tensor:
    """``segc.ops.attention.neighborhood_attention_2d`` of checked arguments on the CPU, contiguous."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    bias = _bias(rpb, q)
    call = _call(q, k, v, window, scale, bias)
    call.out = out.data_ptr()
    _run(call)
    return out


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, rpb: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and rpb, each contiguous and of its own dtype; the last is empty where there is no rpb."""
    dq, dk, dv = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v))
    bias = _bias(rpb, q)
    dbias = q.new_empty(0) if bias is None else torch.zeros_like(bias)
    call = _call(q, k, v, window, scale, bias)
    call.grad = _strided(grad)
    for name, result in (("dq", dq), ("dk", dk), ("dv", dv), ("dbias", dbias)):
        setattr(call, name, result.data_ptr())
    _run(call)
    return dq, dk, dv, dbias if rpb is None else dbias.to(rpb.dtype)


def _bias(rpb: Tensor | None, q: Tensor) -> Tensor | None:
    return None if rpb is None else rpb.to(accumulation_dtype(q.dtype)).contiguous()


def _call(q: Tensor, k: Tensor, v: Tensor, window: Window, scale: float, bias: Tensor | None) -> _Call:
    shape = _Shape((ctypes.c_int64 * 5)(*q.shape), (ctypes.c_int64 * 2)(*window.kernel_size), (ctypes.c_int64 * 2)(*window.dilation))
    call = _Call(shape, _KINDS[q.dtype], torch.get_num_threads(), scale, _strided(q), _strided(k), _strided(v))
    call.bias = None if bias is None else bias.data_ptr()
    return call


def _strided(tensor: Tensor) -> _Strided:
    return _Strided(tensor.data_ptr(), (ctypes.c_int64 * 5)(*tensor.stride()))


def _run(call: _Call) -> None:
    """The first call of the kernel says how much memory it needs."""
    library = native_library()
    assert library is not None
    kernel = library.segc_neighborhood_attention_2d
    kernel.restype = ctypes.c_int64
    size = kernel(ctypes.byref(call))
    workspace = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    call.workspace = -(-workspace.data_ptr() // _ALIGNMENT) * _ALIGNMENT
    kernel(ctypes.byref(call))
