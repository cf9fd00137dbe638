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
from segc.core.errors import UserError
from segc.core.files import sha256_file, sha256_json

DEFAULT_LOSSES = ("kd",)


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
            UserError: no such checkpoint, a loss that is none, or a cache that would never be read.
        """
        if not self.weights.is_file():
            raise UserError(f"the teacher {self.weights} does not exist.", "Give a checkpoint: --teacher best.safetensors")
        terms = [Term.parse(text).as_dict() for text in self.losses]
        teacher = {"weights": str(self.weights), "config": self.config, "sha256": sha256_file(self.weights)}
        cache = None
        if self.cache:
            check_images_repeat(cfg)
            cache = str(self.cache / sha256_json([teacher, [term["teacher"] for term in terms]])[:16])
        cfg = copy.deepcopy(cfg)
        cfg.training_wrapper = {"type": Distilled.__name__, "classes": list(classes), "teacher": teacher, "losses": terms, "cache": cache}
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), {"type": AdapterHook.__name__}]
        return cfg
