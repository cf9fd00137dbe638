"""Bundles, recipes, checkpoints and pictures of somebody else: what would reach beyond the file is refused with a sentence."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data
from pydantic import ValidationError
from safetensors.torch import save_file
from smallnet import CONTRACT, small_bundle, small_model
from toy import make_bundle
from typer.testing import CliRunner

from segc.calib.calibrate import contract_hash, import_cache
from segc.calib.table import TABLE, CalibrationTable, write_table
from segc.calib.tensorrt_cache import write_cache
from segc.cli.main import app
from segc.core.contract import Contract
from segc.core.errors import UserError
from segc.core.files import read_json, sha256_file
from segc.export.engine.add import add_engine
from segc.export.engine.flavour import Flavour
from segc.export.engine.settings import EngineSettings
from segc.models.network import load_network
from segc.pipeline.attempts import Attempts
from segc.pipeline.executor import InProcess
from segc.pipeline.recipe import load_recipe
from segc.runtime.backends.onnx_metadata import refuse_external_data
from segc.runtime.bundle import read_manifest
from segc.runtime.runner import open_runner


def changed(folder: Path, change: dict[str, Any]) -> Path:
    """A bundle with other values in its manifest."""
    bundle = make_bundle(folder / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**manifest, **change}))
    return bundle


GRAPH = {"file": "model.onnx", "sha256": "0", "opset": 17}


@pytest.mark.parametrize(
    "change",
    [
        {"graphs": {"fp32": {**GRAPH, "file": "../secret"}}},
        {"graphs": {"fp32": {**GRAPH, "file": "/etc/passwd"}}},
        {"graphs": {"fp32": {**GRAPH, "file": "model.onnx\0"}}},
        {"graphs": {"../../../evil": GRAPH}},
        {"graphs": {"a/b": GRAPH}},
        {"preferred": {"precision": "../../evil", "backend": "onnxruntime"}},
    ],
    ids=str,
)
def test_a_manifest_cannot_name_what_lies_outside(tmp_path: Path, change: dict[str, Any]) -> None:
    bundle = changed(tmp_path, change)
    with pytest.raises(UserError):
        read_manifest(bundle)
    done = CliRunner().invoke(app, ["validate", str(bundle), "--json"])
    assert done.exit_code == 2 and json.loads(done.stdout)["verdict"] == "error"


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(UserError, match="outside itself"):
        read_manifest(bundle)


def in_branch(tensor: onnx.TensorProto) -> onnx.NodeProto:
    """An If node whose branch holds the tensor."""
    output = onnx.helper.make_tensor_value_info("y", 1, None)
    branch = onnx.helper.make_graph([], "b", [], [output], [tensor])
    return onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.bin"])
@pytest.mark.parametrize("where", ["initializer", "attribute", "branch", "function"])
def test_weights_in_other_files_are_not_read(tmp_path: Path, location: str, where: str) -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model = small_model()
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    match where:
        case "initializer":
            model.graph.initializer.append(tensor)
        case "attribute":
            model.graph.node.append(constant)
        case "branch":
            model.graph.node.append(in_branch(tensor))
        case "function":
            model.functions.append(onnx.helper.make_function("d", "f", [], ["w"], [constant], [onnx.helper.make_opsetid("", 17)]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(UserError, match="other files"):
            open_runner(str(path), backend)


def test_what_onnx_itself_puts_into_other_files_is_seen_and_a_whole_file_passes(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "whole.onnx")
    refuse_external_data(tmp_path / "whole.onnx")
    model = small_model()
    convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, tmp_path / "parts.onnx")
    with pytest.raises(UserError, match="other files"):
        refuse_external_data(tmp_path / "parts.onnx")


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """A bundle whose weights lie in a file beside its graph, with a calibration table."""
    model = small_model()
    convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    bundle = small_bundle(tmp_path / "parted", model)
    table = CalibrationTable(
        method="mse",
        percentile=None,
        seed=0,
        graph_sha256=sha256_file(bundle / "model.onnx"),
        contract_sha256=contract_hash(CONTRACT),
        images=[],
        ranges={},
    )
    write_table(bundle / TABLE, table)
    return bundle


def test_an_engine_is_not_built_from_weights_in_other_files(parted: Path) -> None:
    flavour = Flavour("rtx", "1.7.1", ("8.6",), hosts_plugins=False)
    with pytest.raises(UserError, match="other files"):
        add_engine(parted, "fp32", EngineSettings(compute_capability="8.6"), flavour=flavour)


def test_a_cache_is_not_read_for_a_graph_with_weights_in_other_files(parted: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "int8.cache", {"stem": 1.0})
    with pytest.raises(UserError, match="other files"):
        import_cache(parted, tmp_path / "int8.cache")


def test_a_search_does_not_read_weights_in_other_files(parted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other files"):
        Attempts(parted, tmp_path / "work", "onnxruntime", InProcess(), limit=None, runs=1, threads=1)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 10**9, "width": 10**9},
        {"height": 60_000, "width": 60_000},
        {"batch": 10**6},
        {"height": 0},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"palette": [(0, 0, 300)] * 3},
        {"classes": [], "palette": []},
        {"resize": {"mode": "stretch", "size": (10**6, 10**6)}},
        {"inference": {"mode": "slide", "crop_size": (8, 8), "stride": (0, 8)}},
    ],
    ids=str,
)
def test_a_contract_that_asks_for_too_much_or_nonsense(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Contract(**{**CONTRACT.model_dump(), **change})
    if "nan" not in str(change):
        with pytest.raises(UserError, match="not a valid manifest"):
            read_manifest(changed(tmp_path, {"contract": {**CONTRACT.model_dump(mode="json"), **change}}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: !!python/object/apply:os.system ['false']", "could not determine a constructor"),
        ("name: &a x\nconfig: *a", "alias"),
        ("a: &a [x, x]\nb: &b [*a, *a]", "alias"),
        ("? [1, 2]\n: 3", "key"),
        ("? {a: 1}\n: 3", "key"),
        ("when: 2020-99-99", "month"),
        ("x: " + "[" * 5000, "recursion"),
        ("x: " + "9" * 5000, "digits"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_would_do_more_than_tell_values(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '"\\ud800', "\xff"])
def test_json_beyond_measure(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin1")
    with pytest.raises(UserError, match="not a readable JSON file"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["os.mkdir", "mmengine.mkdir_or_exist", "mmengine.utils.path.mkdir_or_exist", "subprocess.Popen"])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_the_config_of_a_checkpoint_calls_no_function(tmp_path: Path, name: str, kind: str) -> None:
    """mmengine's registry imports and calls whatever a ``type`` names: here a folder would be made when the network is built."""
    argument = {"os.mkdir": "path", "subprocess.Popen": "args"}.get(name, "dir_name")
    path, made = tmp_path / f"c.{kind}", tmp_path / "made"
    model = {"type": "EncoderDecoder", "backbone": {"type": name, argument: str(made)}, "decode_head": {"type": "FCNHead"}}
    if kind == "pth":
        torch.save({"state_dict": {"w": torch.ones(1)}, "meta": {"cfg": f"model = {model!r}"}}, path)
    else:
        save_file({"w": torch.ones(1)}, path, {"config": json.dumps({"model": model})})
    with pytest.raises(UserError, match=f"'{name}', which could be any code"):
        load_network(None, path)
    assert not made.exists()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is larger than memory is worth."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_picture_that_says_it_is_huge(tmp_path: Path, kind: str) -> None:
    """In a process of its own, as OpenCV reads its limit when it is loaded."""
    import subprocess
    import sys

    from toy import make_set

    root, bundle = make_set(tmp_path / "set", 2), make_bundle(tmp_path / "bundle")
    (root / kind / "val" / "1.png").write_bytes(png_header(32_000, 32_000))
    words = ["-m", "segc.cli.main", "validate", str(bundle), "--data", str(root), "--json"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "1.png says that it has too many pixels" in json.loads(done.stdout)["error"], done.stderr


def test_small_bundles_still_open(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    assert open_runner(str(bundle)).run(np.zeros((1, 32, 48, 3), np.uint8)).shape == (1, 32, 48)
