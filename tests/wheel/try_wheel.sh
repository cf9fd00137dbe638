#!/usr/bin/env bash
# Install dist/*.whl into an empty environment (no torch, no mmseg, no checkout on the path) and use it.
# usage: try_wheel.sh PYTHON BUNDLE_MAKER_PYTHON
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$2" "$root/tests/wheel/make_bundle.py" "$work/bundle" "$work/street.png"
"$1" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" "$root"/dist/*.whl
cd "$work"
segc="$work/venv/bin/segc"
"$work/venv/bin/python" - <<'PY'
import importlib.util
for name in ("torch", "mmseg", "onnx", "openvino"):
    assert importlib.util.find_spec(name) is None, f"{name} came with the runtime install"
PY
"$segc" --help > help.txt
"$segc" predict street.png --model bundle -o out
test -s out/street*overlay* || { ls -R out; echo "no overlay written"; exit 1; }
"$segc" benchmark bundle --images street.png --runs 5 --warmup 1
"$segc" inspect bundle
echo "wheel: $(ls "$root"/dist/*.whl | xargs -n1 basename) installed, predicted, benchmarked"
