"""Shared fixtures: where the real images lie, when they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is no reason to fail: nothing here is a test of time.
settings.register_profile("segc", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("segc")


def camvid_root() -> Path | None:
    """The CamVid folder named by SEGC_DATA (default: ``../shared/data``), or None."""
    root = Path(os.environ.get("SEGC_DATA", ROOT.parent / "shared" / "data")) / "camvid"
    return root if (root / "images" / "val").is_dir() else None


@pytest.fixture(scope="session")
def camvid() -> Path:
    """Root of the real CamVid images; the test is skipped by name where they are absent."""
    root = camvid_root()
    if root is None:
        pytest.skip("CamVid images not found: set SEGC_DATA")
    return root
