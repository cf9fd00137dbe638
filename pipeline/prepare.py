"""From what a user names to a calibrated bundle, and the recipe that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segc.core.errors import UserError
from segc.core.files import write_text
from segc.pipeline.engine import run_stages
from segc.pipeline.recipe import Recipe
from segc.pipeline.stages import Run
from segc.runtime.bundle import is_bundle, read_manifest
from segc.runtime.target import CHECKPOINT_SUFFIXES


@dataclass(frozen=True)
class Prepared:
    """A calibrated bundle and the recipe that makes it; None for a bundle that does not say how it was made."""

    bundle: Path
    recipe: Recipe | None


def default_work(source: str) -> Path:
    """Where trials of a source lie when the user names no folder: beside a checkpoint or bundle, in ``work_dirs`` for a config."""
    path = Path(source.rpartition("::")[2])
    named = Path(source).exists() and (is_bundle(source) or path.suffix in CHECKPOINT_SUFFIXES)
    folder = path.resolve().parent if named else Path("work_dirs")
    return folder / f"{path.stem}-search"


def from_bundle(bundle: Path) -> Prepared:
    """A bundle as it is."""
    stored = read_manifest(bundle).recipe
    return Prepared(bundle, Recipe.model_validate(stored) if stored else None)


def from_network(config: str | None, weights: Path | None, data: Path | None, work: Path) -> Prepared:
    """A network exported and calibrated in ``work``; what is there and did not change is not made again.

    Args:
        config: a path, ``mmseg::NAME.py`` or ``segc::NAME.py``; None takes the one inside the checkpoint.
        weights: the checkpoint.
        data: folder of the dataset, instead of the one that the config names.

    Raises:
        UserError: no weights, no config, no dataset, or see ``segc.export.exporter.export_network`` and ``segc.calib.calibrate.calibrate``.
    """
    if weights is None:
        raise UserError(f"{config} is a config without weights.", "Add --weights best.safetensors, or give the checkpoint itself.")
    name, found = _config(config, weights, work)
    values: dict[str, Any] = {"name": weights.stem, "config": name, "train": {"weights": str(weights.resolve())}}
    recipe = Recipe.model_validate({**values, "data": _data(found, data)})
    run = Run(recipe, work)
    run_stages(run.stages, work / "state.json", until="calibrate")
    return Prepared(run.bundle, recipe)


def _config(name: str | None, checkpoint: Path, work: Path) -> tuple[str, Any]:
    """(name, config); a checkpoint's own config is written to ``work``, where a recipe can name it."""
    from segc.models.checkpoint import read_checkpoint
    from segc.models.config import load_config

    if name is not None:
        return name, load_config(name)
    inside = read_checkpoint(checkpoint).config
    if inside is None:
        raise UserError(f"{checkpoint} carries no config.", f"Name it too: CONFIG --weights {checkpoint}")
    found = load_config(inside)
    path = work.resolve() / "network.py"
    write_text(path, found.pretty_text)
    return str(path), found


def _data(config: Any, given: Path | None) -> dict[str, Any]:
    """The recipe's section: nothing for the embedded dataset, which is the default."""
    from segc.data.embedded import embedded_dataset
    from segc.export.exporter import find_data

    found = {"root": str(given.resolve())} if given else find_data(config)
    if found is None:
        raise UserError("the config's dataset is not on this machine.", "Give a dataset: --data ROOT")
    return {} if Path(found["root"]).resolve() == embedded_dataset().resolve() else dict(found)
