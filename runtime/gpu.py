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


def find_gpu() -> Gpu | None:
    """The first GPU, None where there is none or no driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), device)
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = (_attribute(driver, device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(name.value.decode(), f"{major}.{minor}", cuda_version(version.value))


def cuda_version(number: int) -> str:
    """The CUDA version that the driver and the runtime tell as a number: 12060 is 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
