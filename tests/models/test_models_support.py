"""The support table of docs/models.md is what the stored rows say, and a stage that takes too much is ended with a reason."""

from __future__ import annotations

import sys

from benchmarks.support import SupportRow, run_limited
from benchmarks.support_stages import STAGES
from benchmarks.support_table import COLUMNS, DOCUMENT, RESULTS, replaced, table
from segc.core.files import read_json
from segc.models.catalogue import catalogue


def test_the_table_of_the_document_is_that_of_the_rows() -> None:
    document, rows = DOCUMENT.read_text(), read_json(RESULTS)["rows"]
    assert replaced(document, table(rows)) == document, "write it again: python -m benchmarks.support_table"
    assert {SupportRow.model_validate(row).network for row in rows} <= {entry.name for entry in catalogue()}
    assert {row["stage"] for row in rows} <= set(STAGES) and tuple(STAGES) == COLUMNS


def test_cells_and_reasons() -> None:
    common = {"network": "net", "agreement": None, "detail": "", "reason": ""}
    rows = [
        {**common, "stage": "train"},
        {**common, "stage": "export", "agreement": 0.9991, "detail": "64x96"},
        {**common, "stage": "ORT int8", "reason": "not done within 3 s"},
        {**common, "stage": "TensorRT-RTX", "detail": "fp32 9 layers"},
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| net | yes | 99.91 % at 64x96 | not tried | no (1) | not tried | fp32 9 layers | never |"
    assert lines[-1] == "1. not done within 3 s."


def run(code: str, seconds: float = 60.0, mib: float = 4096.0) -> dict[str, object]:
    return run_limited([sys.executable, "-c", code], seconds, mib)


def test_a_command_that_ends_tells_its_last_line() -> None:
    found = run("print('noise'); print('{\"detail\": \"x\"}')")
    assert found["detail"] == "x" and found["peak_mib"] == int(found["peak_mib"])  # type: ignore[call-overload]
    assert run("raise SystemExit(3)")["reason"] == "its process ended with code 3"


def test_too_long_and_too_large_are_ended_with_their_children() -> None:
    asleep = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
    found = run(asleep, seconds=0.5)
    assert found["reason"] == "not done within 0.5 s" and found["seconds"] < 20  # type: ignore[operator]
    large = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(200 * 2**20); import time; time.sleep(99)'])"
    assert run(large, mib=100)["reason"] == "needs more than 100 MiB"
