"""Selective scan through the compiled kernels: arranges the tensors' addresses for ``scan.cpp``; arguments as in ``segc.ops.scan``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from segc.ops.checks import DIRECTIONS
from segc.ops.native.library import native_library
from segc.ops.reference import accumulation_dtype
from segc.ops.scan_torch import Gradients

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
POINTERS = "u delta A B C D bias grad y of_u of_delta of_A of_B of_C of_D of_bias".split()
STRIDES = "u_batch u_channel delta_batch delta_channel grad_batch grad_channel B_batch B_group B_state C_batch C_group C_state".split()
SIZES = "batch groups members states height width blocks softplus reverse cross threads dtype".split()


class Call(ctypes.Structure):
    """The arguments of ``segc_scan``, in the order of ``scan.cpp``."""

    _fields_ = [*((name, ctypes.c_void_p) for name in POINTERS), *((name, ctypes.c_int64) for name in (*STRIDES, *SIZES))]


def native_takes(dtype: torch.dtype) -> bool:
    """Whether there is a compiled kernel for this type of tensors: float16 needs a compiler or a processor that knows it."""
    library = native_library()
    return library is not None and (dtype != torch.float16 or bool(library.segc_scan_has_float16()))


class NativeScan:
    """One scan's inputs: along sequences (batch, channels, length), or with ``cross`` along four directions of maps."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None, cross: bool):
        self.cross, self.work, self.out = cross, accumulation_dtype(u.dtype), u.dtype
        # A map's result is summed over four directions before it is rounded.
        self.summed = self.work if cross else u.dtype
        self.u, self.delta, self.B, self.C = (_flat(tensor, 2 if cross else 1) for tensor in (u, delta, B, C))
        self.A, self.D, self.bias = (None if tensor is None else tensor.contiguous() for tensor in (A, D, bias))
        self.call = Call(batch=u.shape[0], states=A.shape[1], groups=DIRECTIONS if cross else B.shape[1], cross=cross)
        self.call.members = A.shape[0] // self.call.groups
        self.call.height, self.call.width = u.shape[-2:] if cross else (1, u.shape[-1])
        self.call.threads = torch.get_num_threads()
        self.call.dtype = TYPES[u.dtype]
        items = self.call.batch * (1 if cross else self.call.groups)
        self.call.blocks = min(self.call.members, -(-2 * self.call.threads // items))
        self._point(u=self.u, delta=self.delta, A=self.A, B=self.B, C=self.C, D=self.D, bias=self.bias)

    def forward(self, softplus: bool, reverse: bool) -> Tensor:
        """The outputs, as u."""
        y = self.u.new_empty(self.u.shape, dtype=self.summed)
        self._point(y=y)
        self._run(softplus, reverse)
        return y.to(self.out)

    def backward(self, grad: Tensor, softplus: bool, reverse: bool) -> Gradients:
        """Gradients of u, delta, A, B, C, D and bias, each as its input; the last two empty where there is none."""
        grad = _flat(grad.to(self.out), 2 if self.cross else 1)
        call, assigned = self.call, self.A
        assert assigned is not None
        of_u = self.u.new_empty(self.u.shape, dtype=self.summed)
        of_delta = self.u.new_empty(self.delta.shape)
        of_A = assigned.new_zeros(call.batch, *assigned.shape)
        of_D, of_bias = assigned.new_zeros(2, call.batch, assigned.shape[0])
        of_B, of_C = assigned.new_empty(2, call.blocks, *self.B.shape)
        self._point(grad=grad, of_u=of_u, of_delta=of_delta, of_A=of_A, of_B=of_B, of_C=of_C, of_D=of_D, of_bias=of_bias)
        self._run(softplus, reverse)
        absent = [assigned.new_empty(0) if given is None else total.sum(0) for given, total in ((self.D, of_D), (self.bias, of_bias))]
        dB, dC = (total.sum(0).to(self.out) for total in (of_B, of_C))
        return of_u.to(self.out), of_delta, of_A.sum(0), dB, dC, absent[0], absent[1]

    def _point(self, **tensors: Tensor | None) -> None:
        """Write addresses and strides; the tensors have to live until the call."""
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            setattr(self.call, name, tensor.data_ptr())
            axes = ("batch", "group", "state") if name in ("B", "C") else ("batch", "channel")
            for axis, stride in zip(axes, tensor.stride(), strict=False):
                if f"{name}_{axis}" in STRIDES:
                    setattr(self.call, f"{name}_{axis}", stride)

    def _run(self, softplus: bool, reverse: bool) -> None:
        library = native_library()
        assert library is not None
        self.call.softplus, self.call.reverse = softplus, reverse
        library.segc_scan(ctypes.byref(self.call))


def _flat(tensor: Tensor, axes: int) -> Tensor:
    """The tensor itself where its last axes lie one after the other in memory, else a copy."""
    lies = tensor.stride(-1) == 1 and (axes == 1 or tensor.stride(-2) == tensor.shape[-1])
    return tensor if lies else tensor.contiguous()
