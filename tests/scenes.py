"""What a training of the quickstart network on a few small scenes overrides in its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def small_training(root: Path, channels: int) -> dict[str, Any]:
    """Overrides for the rendered set at ``root`` (96x64), crops of 48x32, batches of 2, and a backbone that begins with ``channels``."""
    return {
        **{f"{split}_dataloader.dataset.root": str(root) for split in ("train", "val", "test")},
        "train_dataloader.batch_size": 2,
        "model.data_preprocessor.size": (32, 48),
        "model.backbone.base_channels": channels,
        "model.backbone.stem_channels": channels,
        "model.neck.in_channels": [channels * factor for factor in (1, 2, 4, 8)],
        "train_dataloader.dataset.pipeline.1.scale": (96, 64),
        "train_dataloader.dataset.pipeline.2.crop_size": (32, 48),
    }
