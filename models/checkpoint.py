"""Reading a checkpoint that somebody else wrote: tensors and plain data come in, code does not."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segc.core.errors import UserError
from segc.models.array_pickle import read_arrays
from segc.models.config import decode_config, parse_config_text

# The averaged weights come first: they are what such a training publishes.
_CONTAINERS = ("state_dict_ema", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.",)

Palette = list[tuple[int, int, int]]


@dataclass
class Checkpoint:
    """What a checkpoint holds: tensors by name, and the config, class names and palette when it carries them."""

    path: Path
    state: dict[str, Tensor]
    config: Config | None = None
    classes: list[str] | None = None
    palette: Palette | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint without running code in it: ``.safetensors``, ``.pth`` (mmengine, mmseg 0.x, plain), ``.pkl`` (detectron2).

    Raises:
        UserError: missing, truncated, not a checkpoint, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path} do not exist.", "Give a .pth or .safetensors file.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def weights_sha256(path: Path | str) -> str:
    """SHA-256 of a checkpoint's tensors: files written twice with the same tensors differ.

    Raises:
        UserError: see ``read_checkpoint``.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(read_checkpoint(path).state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_content(path: Path | str) -> dict[str, Any]:
    """Everything a ``.pth`` of mmengine holds (network, optimizer, schedule, meta), without running code: what a training resumes from.

    Raises:
        UserError: see ``read_checkpoint``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist.")
    if path.suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path).state}
    content = _unpickle_safely(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, expected an mmengine checkpoint.")
    return dict(content)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        loaded = {key: json.loads(metadata[key]) for key in ("config", "classes", "palette") if key in metadata}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}).", "Copy it again.") from error
    config = decode_config(loaded["config"]) if "config" in loaded else None
    return Checkpoint(path, state, config, loaded.get("classes"), as_palette(loaded.get("palette")))


def _read_pickle(path: Path) -> Checkpoint:
    content = read_arrays(path) if path.suffix == ".pkl" else _unpickle_safely(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a state dict or an mmengine checkpoint.")
    state = _state_dict(path, content)
    meta = content.get("meta")
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    told = meta.get("dataset_meta") or {}
    classes = told.get("classes") or meta.get("CLASSES")
    palette = told.get("palette") or meta.get("PALETTE")
    text = meta.get("cfg") or meta.get("config")
    return Checkpoint(
        path,
        state,
        config=parse_config_text(text) if isinstance(text, str) and text.strip() else None,
        classes=[str(name) for name in classes] if classes else None,
        palette=as_palette(palette),
        meta=meta,
    )


def _unpickle_safely(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not loaded: beside tensors it names Python objects, which could run code ({_first_line(error)}).",
            "Save its state dict alone where you trust it: torch.save(checkpoint['state_dict'], 'weights.pth')",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a whole PyTorch checkpoint ({_first_line(error)}).", "Copy it again.") from error


class _Skipped:
    """Stands for an object of a checkpoint that is not needed here (mmengine's training history)."""

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


def _skip(*_: Any) -> None:
    """Stands for ``getattr``, by which a training history names its own methods: it looks nothing up."""


def _allowed_globals() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors: numpy values, and a training history that is read over."""
    from numpy._core import multiarray

    arrays = [np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]
    functions = [multiarray._reconstruct, multiarray.scalar]
    old_names = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    stand_ins = [(_Skipped, "mmengine.logging.history_buffer.HistoryBuffer"), (_skip, "builtins.getattr"), (_skip, "__builtin__.getattr")]
    return [slice, *arrays, *functions, *old_names, *stand_ins]


def _state_dict(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    state = {_strip(str(name)): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors (its keys: {', '.join(map(str, list(content)[:5]))}).", "Give a checkpoint of a network.")
    return state


def _strip(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def as_palette(palette: Any) -> Palette | None:
    """A palette as RGB integer triples, or None."""
    if not palette or isinstance(palette, str):
        return None
    return [(int(colour[0]), int(colour[1]), int(colour[2])) for colour in palette]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unsupported = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    text = (unsupported or lines or [type(error).__name__])[0]
    return text.partition("Please use")[0].strip().rstrip(".:")
