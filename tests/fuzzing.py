"""Fuzzing of everything that reads a file of somebody else: each damaged file is read, or refused with a ``UserError``; nothing else.

    python tests/fuzzing.py [INPUTS] [SEED]

INPUTS files a reader; each is a sound file with a few random changes of its bytes and, where it is JSON or YAML, of its values. What else
comes than a result or a ``UserError``, and what takes longer than HANG_S, is a failure; memory beyond LARGEST_MEMORY is an error too.
Counts are stored in benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from smallnet import small_bundle
from toy import SPEC

from segc.calib.table import CalibrationTable, read_table
from segc.core.errors import UserError
from segc.core.files import write_json
from segc.core.images import read_image
from segc.core.rows import Row, environment
from segc.data.labels import read_stored_label
from segc.data.spec import read_spec
from segc.models.checkpoint import read_checkpoint
from segc.models.config import parse_config_text
from segc.pipeline.recipe import load_recipe
from segc.runtime.backends.onnx_metadata import has_functions, read_metadata, refuse_external_data
from segc.runtime.bundle import graph_path, read_manifest
from segc.runtime.runner import read_contract
from segc.validate.confusions import Confusions, load_with_about, save_confusions
from segc.validate.fail_if import parse_condition

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "fuzz.json"
HANG_S, LARGEST_MEMORY = 20, 8 << 30
INPUTS, SEED = 20_000, 0

_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"../",
    b"\n",
    b'"',
    b"{",
    b"[",
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "../../x", "/etc/passwd", "a" * 5000, "\ud800",
    [], {}, [[]], {"type": "os.system", "command": "false"}, ["x"] * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A function that reads a file, the name the file has, its sound content, and how its values are written where it has values."""

    read: Callable[[Path], object]
    name: str
    sound: bytes
    values: Callable[[Any], str] | None = None


@dataclass
class Found:
    """What became of the inputs of a reader; failures: the end of each traceback, with the seed of its input."""

    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Hang(BaseException):
    """A reader took longer than HANG_S."""


def readers(folder: Path) -> dict[str, Reader]:
    """Every reader with a sound file, made in ``folder``."""
    bundle = small_bundle(folder / "bundle")
    graph, manifest = (bundle / "model.onnx").read_bytes(), (bundle / "bundle.json").read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    encoded = {end: cv2.imencode(end, noise)[1].tobytes() for end in (".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm")}
    recipe = {
        "name": "x",
        "config": "c.py",
        "train": {"seed": 1, "overrides": {"a.b": 3}},
        "export": {"input_size": [8, 8]},
        "validate": {},
    }
    text = b"model = dict(type='A', b=[1, (2, -3)], c={'d': 4})\n"
    condition = b'drop(mIoU) > 0.5 or not (upper(drop(class:"a b")) >= 1)'
    table = CalibrationTable(
        method="mse", percentile=None, seed=0, graph_sha256="0", contract_sha256="1", images=[], ranges={"x": 1.5}
    )  # fmt: skip
    found = {
        "bundle.json": Reader(_read_bundle, "bundle.json", manifest, json.dumps),
        "graph": Reader(_read_graph, "model.onnx", graph),
        "recipe": Reader(load_recipe, "r.yaml", yaml.safe_dump(recipe).encode(), lambda value: yaml.safe_dump(value, allow_unicode=True)),
        "dataset.json": Reader(lambda path: read_spec(path.parent), "dataset.json", json.dumps(SPEC).encode(), json.dumps),
        "calibration.json": Reader(read_table, "calibration.json", table.model_dump_json().encode(), json.dumps),
        "label": Reader(read_stored_label, "label.png", cv2.imencode(".png", noise[..., 0])[1].tobytes()),
        "palette label": Reader(read_stored_label, "label.png", _palette_png()),
        "confusions": Reader(load_with_about, "c.npz", _confusions(folder / "c.npz")),
        "config text": Reader(lambda path: parse_config_text(path.read_text("latin1")), "c.py", text),
        "condition": Reader(lambda path: parse_condition(path.read_text("latin1")), "c", condition),
        "checkpoint.safetensors": Reader(read_checkpoint, "c.safetensors", _safetensors()),
        "checkpoint.pth": Reader(read_checkpoint, "c.pth", _pth(folder / "c.pth")),
        "checkpoint.pkl": Reader(read_checkpoint, "c.pkl", pickle.dumps({"model": {"w": np.ones((2, 3), np.float32)}})),
    }  # fmt: skip
    return {**found, **{f"image{end}": Reader(read_image, f"x{end}", content) for end, content in encoded.items()}}


def _read_bundle(path: Path) -> object:
    manifest = read_manifest(path.parent)
    return [graph_path(path.parent, manifest, precision) for precision in manifest.graphs]


def _read_graph(path: Path) -> object:
    refuse_external_data(path)
    return has_functions(path), read_contract(read_metadata(path).get("segc.contract"), path, None)


def _palette_png() -> bytes:
    from io import BytesIO

    from PIL import Image

    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10) % 4, "P")
    image.putpalette([index % 256 for index in range(768)])
    stream = BytesIO()
    image.save(stream, "png", bits=4)
    return stream.getvalue()


def _confusions(path: Path) -> bytes:
    save_confusions(path, {"target": Confusions.of(np.arange(9).reshape(3, 3))}, {"notices": []})
    return path.read_bytes()


def _safetensors() -> bytes:
    from safetensors.torch import save

    config = json.dumps({"model": {"type": "EncoderDecoder", "head": {"__tuple__": [1, 2]}}})
    content: bytes = save({"w": torch.ones(2, 3)}, {"config": config, "classes": '["a"]', "palette": "[[1, 2, 3]]"})
    return content


def _pth(path: Path) -> bytes:
    torch.save(
        {"state_dict": {"w": torch.ones(2, 3)}, "meta": {"cfg": "model = dict(type='A')", "CLASSES": ["a"], "PALETTE": [[1, 2, 3]]}}, path
    )
    return path.read_bytes()


def damaged(reader: Reader, rng: random.Random) -> bytes:
    """The sound file with one to four changes; every second one of a file of values changes a value."""
    content = reader.sound
    if reader.values and rng.random() < 0.5:
        value = yaml.safe_load(content)
        for _ in range(rng.randint(1, 3)):
            value = _with_another_value(value, rng)
        with suppress(Exception):  # what cannot be written is changed in its bytes
            return reader.values(value).encode("utf-8", "surrogatepass")
    for _ in range(rng.randint(1, 4)):
        content = _with_other_bytes(content, rng)
    return content


def _with_another_value(value: Any, rng: random.Random) -> Any:
    """One value somewhere below replaced, a key added, or one renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(_VALUES)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [_with_another_value(each, rng) if index == at else each for index, each in enumerate(value)]
    key = rng.choice(list(value))
    new = rng.choice([key] * 8 + [key[:-1], "../" + key, ""])
    return {(new if each == key else each): _with_another_value(item, rng) if each == key else item for each, item in value.items()}


def _with_other_bytes(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((0, 1, 1, 2, 4, 8, 64, 1000))
    match rng.randrange(6):
        case 0:
            return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        case 1:
            return content[:at] + rng.choice(_BYTES) + content[at:]
        case 2:
            return content[:at] + rng.choice(_BYTES) + content[at + length :]
        case 3:
            return content[:at] + content[at + length :]
        case 4:
            return content[:at] + content[at : at + length] * rng.randint(2, 2000 if length < 8 else 3) + content[at + length :]
    return content[:at]


def fuzz(reader: Reader, folder: Path, inputs: int, seed: int) -> Found:
    """Read ``inputs`` damaged files; the same for a seed."""
    signal.signal(signal.SIGALRM, _hang)
    found = Found()
    path = folder / reader.name
    for number in range(inputs):
        path.write_bytes(damaged(reader, random.Random(f"{seed} {number}")))
        signal.alarm(HANG_S)
        try:
            reader.read(path)
            found.ends["read"] += 1
        except UserError as error:
            assert str(error)
            found.ends["refused"] += 1
        except (Exception, Hang) as error:
            found.ends["failed"] += 1
            found.failures.append(f"input {number}: {''.join(traceback.format_exception(error)[-3:])}")
        finally:
            signal.alarm(0)
    return found


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def guard() -> None:
    """Let a bomb be seen, and not what the decoders write on stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(inputs: int = INPUTS, seed: int = SEED) -> int:
    """Fuzz every reader, print and store; the exit code says whether all went well."""
    guard()
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as name:
        for what, reader in readers(Path(name)).items():
            folder = Path(name) / what
            folder.mkdir()
            if reader.name == "bundle.json":
                (folder / "model.onnx").write_bytes((Path(name) / "bundle" / "model.onnx").read_bytes())
            found = fuzz(reader, folder, inputs, seed)
            failed += found.ends["failed"]
            conditions = {"seed": seed, "read": found.ends["read"], "refused": found.ends["refused"]}
            rows.append(Row(metric=f"failures of {what}", value=found.ends["failed"], unit="inputs", n=inputs, conditions=conditions))
            print(f"{what:24s} {dict(found.ends)}", *found.failures[:3], sep="\n  ", flush=True)
            write_json(RESULTS, {"rows": [row.model_dump() for row in rows], "environment": environment()})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
