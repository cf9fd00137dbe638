"""Make a small bundle and a picture for a machine without torch and onnx: ``make_bundle.py BUNDLE PICTURE``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toy import make_bundle

from segc.core.images import write_image

if __name__ == "__main__":
    make_bundle(Path(sys.argv[1]))
    ramp = np.linspace(0, 255, 320 * 240 * 3).astype(np.uint8).reshape(240, 320, 3)
    write_image(Path(sys.argv[2]), ramp)
