"""The cache of loaded samples changes nothing but the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segc.data.mmseg_dataset import SegcDataset
from segc.train.transforms import CachedInMemory

STEPS = [{"type": "LoadImageFromFile"}, {"type": "LoadTrainIds"}]


def _sets(street: Path) -> tuple[SegcDataset, SegcDataset]:
    cached: list[dict[str, Any]] = [{"type": "CachedInMemory", "transforms": STEPS}]
    return SegcDataset(street, pipeline=STEPS), SegcDataset(street, pipeline=cached)


def test_cached_samples_equal_loaded_ones_and_cannot_be_spoiled(street: Path) -> None:
    plain, cached = _sets(street)
    for _ in range(2):
        for index in range(len(plain)):
            expected, found = plain[index], cached[index]
            assert sorted(found) == sorted(expected)
            np.testing.assert_array_equal(found["img"], expected["img"])
            np.testing.assert_array_equal(found["gt_seg_map"], expected["gt_seg_map"])
            found["img"][:] = 0
            found["gt_seg_map"][:] = 0
            found["seg_fields"].append("spoiled")


def test_a_sample_is_loaded_once(street: Path, monkeypatch: Any) -> None:
    _, cached = _sets(street)
    step = cached.pipeline.transforms[0]
    assert isinstance(step, CachedInMemory)
    calls: list[Any] = []
    real = step.steps
    monkeypatch.setattr(step, "steps", lambda results: (calls.append(1), real(results))[1])
    for _ in range(3):
        cached[1]
    assert len(calls) == 1
