"""Measure every claim of this folder, one after the other, each in a process of its own: ``python -m benchmarks.run``."""

from __future__ import annotations

import subprocess
import sys

SCRIPTS = tuple("latency validate ops_scan ops_attention ops_onnx ops_triton_aot ops_tensorrt_build models compress_ptq engines".split())


def main() -> None:
    """Run the scripts; stop at the first that fails."""
    for name in SCRIPTS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
