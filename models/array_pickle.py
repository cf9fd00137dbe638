"""The pickles of detectron2's model zoos: dictionaries of numpy arrays. Whatever else a pickle names is refused before it is looked up."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from segc.core.errors import UserError

# All that numpy names when it pickles an array; each only makes data of data. None is written in Python, so that nothing can be hung on it.
_MAKERS: dict[str, Any] = {
    "_codecs.encode": codecs.encode,
    "collections.OrderedDict": OrderedDict,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray._reconstruct": multiarray._reconstruct,
    "numpy._core.multiarray.scalar": multiarray.scalar,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if full not in _MAKERS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return _MAKERS[full]


def read_arrays(path: Path) -> Any:
    """Content of a pickle, its arrays as tensors.

    Raises:
        UserError: it names anything but arrays, or is not whole.
    """
    try:
        with path.open("rb") as file:
            return _with_tensors(_ArrayUnpickler(file, encoding="latin1").load())
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not loaded: it is no pickle of plain arrays, or names Python objects, which could run code ({error}).",
            "Save its arrays alone where you trust it: torch.save(state_dict, 'weights.pth')",
        ) from error
    except (
        *(EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, MemoryError),
        SystemError,  # numpy's, of a dtype's state that is none
    ) as error:
        raise UserError(f"{path} is not a whole pickle of arrays ({type(error).__name__}: {error}).", "Copy it again.") from error


def _with_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    return value
