"""A training made a distillation: what that adds to the config."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from segc.compress.distill.teacher import check_images_repeat
from segc.compress.distill.terms import Term
from segc.compress.distill.wrapper import AdapterHook, Distilled
from segc.core.files import sha256_file, sha256_json
from segc.models.checkpoint import weights_sha256
from segc.models.config import encode_config, load_config

DEFAULT_LOSSES = ("cwd",)


@dataclass(frozen=True)
class Distillation:
    """A teacher, what is learnt from it, and where its outputs are kept.

    weights: the teacher's checkpoint. config: its config, None where the checkpoint has one inside. losses: see ``Term.parse``. cache: a
    folder, None for none.
    """

    weights: Path
    config: str | None = None
    losses: Sequence[str] = DEFAULT_LOSSES
    cache: Path | None = None

    def added_to(self, cfg: Config, classes: Sequence[str]) -> Config:
        """The config of a training as that of a distillation.

        Raises:
            UserError: the checkpoint cannot be read, a loss that is none, or a cache that would never be read.
        """
        terms = [Term.parse(text).as_dict() for text in self.losses]
        teacher = {"weights": str(self.weights), "config": self.config, "sha256": weights_sha256(self.weights)}
        cache = self._cache_of([term["teacher"] for term in terms], cfg) if self.cache else None
        cfg = copy.deepcopy(cfg)
        cfg.training_wrapper = {"type": Distilled.__name__, "classes": list(classes), "teacher": teacher, "losses": terms, "cache": cache}
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), {"type": AdapterHook.__name__}]
        return cfg

    def _cache_of(self, points: Sequence[str | None], cfg: Config) -> str:
        """The folder of what this teacher says at these points about images that ``cfg`` normalises."""
        check_images_repeat(cfg)
        network = encode_config(load_config(self.config)) if self.config else None
        key = [sha256_file(self.weights), network, list(points), encode_config(cfg.model.get("data_preprocessor") or {})]
        return f"{self.cache}/{sha256_json(key)[:16]}"
