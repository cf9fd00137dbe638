"""How an operator reaches its GPU kernels: they are loaded when the first CUDA tensor arrives, since Triton is an extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from segc.core.errors import UserError


def kernels(module: str, operator: str) -> ModuleType:
    """Load ``segc.ops.triton_kernels.<module>``.

    Raises:
        UserError: Triton is not installed; names the operator that asked.
    """
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise UserError(
            f"{operator} was given CUDA tensors, and its GPU kernels need Triton, which is not installed.", fix="pip install 'segc[gpu]'"
        ) from error
    return importlib.import_module(f"segc.ops.triton_kernels.{module}")
