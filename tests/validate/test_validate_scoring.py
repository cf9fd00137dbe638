"""Images in several lanes give the counts of one after the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from toy import make_bundle, make_set

from segc.core.errors import UserError
from segc.data.dataset import open_dataset
from segc.validate import scoring
from segc.validate.scoring import Counts, counted, open_lanes, prefetch
from segc.validate.sides import Side


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_counts_do_not_depend_on_the_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    dataset = open_dataset(make_set(tmp_path / "set", 12))
    side = Side.of(str(make_bundle(tmp_path / "bundle")), backend)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(scoring, "LANES", count)
        lanes = open_lanes(side, side, dataset, threads=3)
        assert len(lanes) == count
        total = Counts.empty(2, compared=True)
        for one in counted(lanes, dataset, dataset):
            total.merge(one)
        found.append(total)
    one, three = found
    assert one.reference and three.reference and one.agreement and three.agreement
    np.testing.assert_array_equal(one.scored.matrices, three.scored.matrices)
    np.testing.assert_array_equal(one.reference.matrices, three.reference.matrices)
    assert (one.agreement.same, one.agreement.pixels) == (three.agreement.same, three.agreement.pixels)
    np.testing.assert_array_equal(one.agreement.matrix, three.agreement.matrix)


def test_threads_are_shared_by_the_lanes(tmp_path: Path) -> None:
    side, dataset = Side.of(str(make_bundle(tmp_path / "bundle"))), open_dataset(make_set(tmp_path / "set", 1))
    assert [len(open_lanes(side, None, dataset, threads=threads)) for threads in (1, 2, 5)] == [1, 2, 2]


def test_prefetch_keeps_the_order_and_stays_a_few_items_ahead() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        time.sleep(0.001 * (item % 3))
        return item

    stream = prefetch(work, range(100), workers=2)
    assert next(stream) == 0 and len(started) <= 6
    assert list(stream) == list(range(1, 100))


def test_an_error_in_a_worker_surfaces() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise UserError("item 5 is broken")
        return item

    with pytest.raises(UserError, match="item 5"):
        list(prefetch(work, range(50)))
