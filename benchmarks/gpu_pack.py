"""Carry segc to a GPU host without package registries, in parts of at most 60 MB. Python's standard library only: it runs there, too.

python benchmarks/gpu_pack.py pack build/gpu          # here, in a checkout: the wheels of segc[rtx] and onnxruntime-gpu
python3 gpu_pack.py unpack FOLDER_OF_THE_PARTS gpu    # there: an environment that sees the host's torch, and a checkout
cd gpu/checkout && ../venv/bin/python -m pytest tests/gpu
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PART_BYTES = 60 * 10**6
ROOT = Path(__file__).resolve().parents[1]
# Packages that cannot be installed beside one that segc depends on: they replace it.
REPLACED = {"onnxruntime-gpu": "onnxruntime"}
TEST_PACKAGES = ["pytest", "hypothesis", "onnx"]
LIST = "parts.json"


def pack(out: Path, extras: str, packages: list[str], part_bytes: int = PART_BYTES) -> list[Path]:
    """Write the wheels of segc and of all it needs for this Python, and the tracked files of the checkout, in parts into ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
        ours = next(wheels.glob("segc-*.whl"))
        wanted = [f"{ours}[{extras}]" if extras else str(ours), *TEST_PACKAGES]
        _pip("download", "--quiet", "--only-binary=:all:", "--dest", str(wheels), *wanted)
        for package in packages:
            _pip("download", "--quiet", "--only-binary=:all:", "--dest", str(wheels), package)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
        archive = Path(folder) / "all.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(wheels, "wheels")
            for name in files:
                tar.add(ROOT / name, f"checkout/{name}")
        return split(archive, out, {"install": [f"segc[{extras}]" if extras else "segc", *TEST_PACKAGES], "packages": packages}, part_bytes)


def unpack(parts: Path, target: Path) -> None:
    """Join the parts, make ``target/venv`` (it sees the host's packages: torch), and install from the wheels alone."""
    told = join(parts, target)
    wheels = target / "wheels"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(target / "venv")], check=True)
    python = str(target / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*install, *told["install"]], check=True)
    for package in told["packages"]:
        if package in REPLACED:
            subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "-y", REPLACED[package]], check=True)
        subprocess.run([*install, package], check=True)


def split(archive: Path, out: Path, told: dict[str, list[str]], part_bytes: int) -> list[Path]:
    """Cut a file into ``part.000``, ``part.001``, ... and write their hashes, with what was ``told``, into ``parts.json``."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    parts = []
    with archive.open("rb") as stream:
        while data := stream.read(part_bytes):
            parts.append(out / f"part.{len(parts):03d}")
            parts[-1].write_bytes(data)
    hashes = {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}
    (out / LIST).write_text(json.dumps({**told, "parts": hashes}, indent=2) + "\n")
    shutil.copyfile(__file__, out / "gpu_pack.py")
    return parts


def join(parts: Path, target: Path) -> dict[str, list[str]]:
    """Put the parts together again, each one checked, and unpack them into ``target``; returns what ``split`` was told.

    Raises:
        SystemExit: a part is missing or damaged; names all of them.
    """
    told: dict[str, dict[str, str]] = json.loads((parts / LIST).read_text())
    wrong = [name for name, known in told["parts"].items() if _hash(parts / name) != known]
    if wrong:
        raise SystemExit(f"missing or damaged: {', '.join(wrong)}; copy them again")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target) as stream:
        for name in told.pop("parts"):
            stream.write((parts / name).read_bytes())
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            tar.extractall(target, filter="data")
    return told  # type: ignore[return-value]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)


def _command() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("out", type=Path)
    packing.add_argument("--extras", default="rtx", help="of segc, comma-separated")
    packing.add_argument("--packages", default="onnxruntime-gpu", help="others, comma-separated; empty for none")
    unpacking = verbs.add_parser("unpack")
    unpacking.add_argument("parts", type=Path)
    unpacking.add_argument("target", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    command = _command()
    if command.verb == "unpack":
        unpack(command.parts, command.target)
    else:
        made = pack(command.out, command.extras, [name for name in command.packages.split(",") if name])
        print(f"{len(made)} parts, {sum(part.stat().st_size for part in made) / 1e6:.0f} MB, in {command.out}")
