"""The NVIDIA GPU of this machine, asked through the driver's own library: older Jetsons have no nvidia-smi, and torch is not needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, its compute capability ("8.7"), and the newest CUDA version that its driver runs ("12.6")."""

    name: str
    compute_capability: str
    driver_cuda: str


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU with this index, None where there is none or no driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), device)
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = (_attribute(driver, device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(name.value.decode(), f"{major}.{minor}", f"{version.value // 1000}.{version.value % 1000 // 10}")


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
