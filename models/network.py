"""A network = config + weights + class names + palette: building it, filling it, storing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from safetensors.torch import save_file
from torch import Tensor, nn

import segc.models.reshaped  # noqa: F401  (the type of a pruned network's config)
from segc.core.errors import UserError
from segc.core.files import atomic_path
from segc.models.build import build_model
from segc.models.checkpoint import Checkpoint, Palette, as_palette, read_checkpoint
from segc.models.config import encode_config, load_config, quietly
from segc.models.convert import Difference, differences, in_our_names
from segc.models.variants import closest_variant

__all__ = ["Network", "build_model", "check_weights", "load_config", "load_network", "quietly", "save_network"]

FORMAT = "segc.network.1"
_AUXILIARY = "auxiliary_head."


@dataclass
class Network:
    """A built network (eval mode, CPU), its config, class names and palette (RGB)."""

    model: nn.Module
    cfg: Config
    classes: list[str]
    palette: Palette


def load_network(
    config: str | Path | Config | None,
    weights: str | Path | None,
    *,
    overrides: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> Network:
    """Build the network of ``config`` and fill it with ``weights``; nothing is downloaded and no code of a checkpoint is run.

    Args:
        config: as for ``load_config``; None takes the config that the checkpoint carries.
        weights: ``.safetensors`` of ``save_network``, an mmengine or mmseg 0.x ``.pth``, or a plain state dict.
        overrides: dotted config keys -> values.
        classes: class names, over those of the checkpoint and of the config's dataset.
        random_weights: build with random weights (``weights`` None): for benchmarks, where the answer does not matter.
        seed: of the random weights.

    Raises:
        UserError: config or weights are missing, unsafe, or do not belong together.
    """
    cfg = load_config(config, overrides) if config is not None else None
    checkpoint = _checkpoint(weights, random_weights)
    if cfg is None:
        if checkpoint is None or checkpoint.config is None:
            raise UserError(f"{weights or 'this network'} carries no config.", "Name the config too.")
        cfg = load_config(checkpoint.config, overrides)
    model = build_model(cfg, seed)
    if checkpoint is not None:
        _fill(model, checkpoint, cfg.model)
    names, palette = _classes_and_palette(cfg, checkpoint, classes)
    expected = int(_last_head(model).num_classes)
    if len(names) != expected:
        raise UserError(
            f"the network has {expected} classes, but {len(names)} class names were found ({', '.join(names[:3])}...).",
            "Set metainfo=dict(classes=..., palette=...) in the config's test_dataloader.dataset.",
        )
    return Network(model, cfg, names, palette)


def save_network(network: Network, path: Path | str) -> None:
    """Write weights, config, class names and palette into one ``.safetensors`` file, atomically; equal networks give equal bytes.

    Raises:
        UserError: the file cannot be written, or the config holds objects.
    """
    metadata = {
        "format": FORMAT,
        "config": json.dumps(encode_config(network.cfg)),
        "classes": json.dumps(network.classes),
        "palette": json.dumps(network.palette),
    }
    # Copies: safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata, which the library writes in another order every time, in that of their names."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        stream.seek(8)
        stream.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def check_weights(model: nn.Module) -> None:
    """Refuse a network with values that are not numbers.

    Raises:
        UserError: names the tensors.
    """
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{len(broken)} tensors of the network hold values that are not finite numbers ({', '.join(broken[:3])}).",
            "Train it again, or give another checkpoint.",
        )


def _last_head(model: Any) -> Any:
    """The head that predicts: the last one of a cascade."""
    return model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head


def _checkpoint(weights: str | Path | None, random_weights: bool) -> Checkpoint | None:
    if weights is not None and random_weights:
        raise UserError(f"weights {weights} and random weights exclude each other.")
    if weights is None and not random_weights:
        raise UserError("no weights were given.", "Add --weights FILE.")
    return read_checkpoint(weights) if weights is not None else None


def _fill(model: nn.Module, checkpoint: Checkpoint, model_cfg: Mapping[str, Any]) -> None:
    """Load the tensors, published names turned into ours; the auxiliary head, which only training uses, may be absent on either side."""
    own = model.state_dict()
    given = in_our_names(model_cfg, checkpoint.state)
    given = {name: tensor for name, tensor in given.items() if name in own or not name.startswith(_AUXILIARY)}
    wrong = differences(own, given)
    if wrong and all(item.kind == "missing" and item.name.startswith(_AUXILIARY) for item in wrong):
        del model.auxiliary_head
        wrong = []
    if wrong:
        nearest = closest_variant(model_cfg, own, given)
        fix = nearest.sentence() if nearest else "Give the config these weights were trained with."
        raise UserError(_mismatch(checkpoint, own, given, wrong), fix)
    model.load_state_dict(given, strict=False)


def _mismatch(checkpoint: Checkpoint, own: dict[str, Tensor], given: dict[str, Tensor], wrong: list[Difference]) -> str:
    kinds = {kind: [item for item in wrong if item.kind == kind] for kind in ("missing", "unexpected", "reshaped")}
    words = {"reshaped": "of another shape"}
    told = ", ".join(f"{len(items)} {words.get(kind, kind)}" for kind, items in kinds.items() if items)
    examples = [f"{item.name} {item.theirs} instead of {item.ours}" for item in kinds["reshaped"]]
    examples += [item.name for item in (*kinds["missing"], *kinds["unexpected"])]
    looks = f"The checkpoint looks like {_looks(given)}; the config builds {_looks(own)}."
    return f"{checkpoint.path} holds the weights of another network: {told} of {len(own)} tensors ({'; '.join(examples[:3])}). {looks}"


def _looks(state: dict[str, Tensor]) -> str:
    """A few words on a state dict: number of tensors, parameters and classes."""
    heads = [tensor for name, tensor in state.items() if name.endswith("conv_seg.weight") and not name.startswith(_AUXILIARY)]
    classes = f", {heads[-1].shape[0]} classes" if heads else ""
    millions = sum(tensor.numel() for tensor in state.values()) / 1e6
    return f"{len(state)} tensors, {millions:.2f} M values{classes}"


def _classes_and_palette(cfg: Config, checkpoint: Checkpoint | None, classes: Sequence[str] | None) -> tuple[list[str], Palette]:
    told = classes or (checkpoint.classes if checkpoint else None)
    own_classes, own_palette = (None, None) if checkpoint and checkpoint.palette and told else _dataset_meta(cfg)
    names = list(told or own_classes or [])
    if not names:
        raise UserError(
            "neither the checkpoint nor the config's dataset names the classes.",
            "Set metainfo=dict(classes=..., palette=...) in the config's test_dataloader.dataset.",
        )
    candidates = [checkpoint.palette if checkpoint else None, own_palette]
    return names, next((colours for colours in candidates if colours and len(colours) == len(names)), default_palette(len(names)))


def _dataset_meta(cfg: Config) -> tuple[list[str] | None, Palette | None]:
    """Classes and palette of the config's dataset: its ``metainfo`` over those of its type."""
    dataset = next((cfg[key].get("dataset") for key in ("test_dataloader", "val_dataloader", "train_dataloader") if cfg.get(key)), None)
    while isinstance(dataset, Mapping) and "dataset" in dataset:
        dataset = dataset["dataset"]
    if not isinstance(dataset, Mapping):
        return None, None
    info: dict[str, Any] = {**_type_meta(dataset), **(dataset.get("metainfo") or {})}
    classes = info.get("classes")
    return (list(classes) if classes else None), as_palette(info.get("palette"))


def _type_meta(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Meta information of a dataset's type, or of the dataset itself where only the data knows its classes."""
    kind = dataset.get("type")
    with quietly():
        from mmseg.registry import DATASETS

        found = DATASETS.get(kind) if isinstance(kind, str) else kind
        meta = dict(getattr(found, "METAINFO", {}))
        if found is None or meta.get("classes") or (dataset.get("metainfo") or {}).get("classes"):
            return meta
        return dict(DATASETS.build({**dataset, "pipeline": [], "lazy_init": True}).metainfo)


def default_palette(count: int) -> Palette:
    """``count`` distinct RGB colours: PASCAL VOC's bit-interleaved colour map, black first."""
    return [_voc_colour(index) for index in range(count)]


def _voc_colour(index: int) -> tuple[int, int, int]:
    channels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return channels[0], channels[1], channels[2]
