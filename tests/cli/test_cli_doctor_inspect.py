"""``segc doctor`` on this machine and on a machine that lacks things; ``segc inspect`` on each kind of artefact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from segc.cli import doctor
from segc.cli import inspect as inspect_verb
from segc.core.contract import CONTRACT_KEY, Contract
from segc.core.errors import UserError
from segc.core.files import sha256_file
from segc.runtime.bundle import Graph, Manifest, write_manifest

CONTRACT = Contract(classes=["road", "car"], palette=[(0, 0, 0), (9, 9, 9)], height=4, width=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def graph(path: Path) -> Path:
    """uint8 -> float -> one Q/DQ pair -> times a constant of 3 values."""
    nodes = [
        helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Mul", ["d", "w"], ["class_map"]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0.5), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
        numpy_helper.from_array(np.ones(3, np.float32), "w"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3])
    output = helper.make_tensor_value_info("class_map", TensorProto.FLOAT, ["N", 4, 4, 3])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [output], constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    helper.set_model_props(model, {CONTRACT_KEY: CONTRACT.model_dump_json()})
    onnx.save(model, path)
    return path


def test_onnx(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx")
    kind, found = inspect_verb.describe(str(path))
    assert kind == "an ONNX graph"
    assert found["opsets"] == {"ai.onnx": 20}
    assert found["ops"] == {"Cast": 1, "QuantizeLinear": 1, "DequantizeLinear": 1, "Mul": 1}
    assert found["quantize_dequantize_nodes"] == 2
    assert found["constants_by_type"] == {"float": 4, "int8": 1}
    assert found["inputs"] == {"images": "N x 4 x 4 x 3"}
    assert found["contract"]["classes"] == ["road", "car"]
    assert found["sha256"] == sha256_file(path)


def test_onnx_without_the_onnx_package_is_reduced_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph(tmp_path / "g.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    _, found = inspect_verb.describe(str(path))
    assert "pip install onnx" in found["reduced"]
    assert found["inputs"] == {"images": "N x 4 x 4 x 3"} and found["contract"]["classes"] == ["road", "car"]
    assert "ops" not in found


def test_bundle(tmp_path: Path) -> None:
    path = graph(tmp_path / "model.onnx")
    graphs = {"fp32": Graph(file=path.name, sha256=sha256_file(path), opset=20)}
    write_manifest(tmp_path, Manifest(name="mine", contract=CONTRACT, graphs=graphs, preferred={"precision": "fp32"}))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "benchmark.fp32.openvino.json").write_text("{}")
    kind, found = inspect_verb.describe(str(tmp_path))
    assert kind == "a bundle"
    assert found["graphs"]["fp32"]["ops"]["Mul"] == 1
    assert found["results"] == ["benchmark.fp32.openvino.json"]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="altered"):
        inspect_verb.describe(str(tmp_path))


def test_checkpoint(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "w.pth"
    torch.save({"state_dict": network.state_dict(), "meta": {"dataset_meta": {"classes": ("a", "b")}}}, path)
    kind, found = inspect_verb.describe(str(path))
    assert kind == "a checkpoint"
    assert found["parameters"] == sum(each.numel() for each in network.parameters())
    assert found["classes"] == ["a", "b"] and found["network"] is None


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("pwned"),)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, "evil.pth")
    with pytest.raises(UserError, match="could run code"):
        inspect_verb.describe("evil.pth")
    assert not Path("pwned").exists()


def test_config_and_recipe() -> None:
    kind, found = inspect_verb.describe("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py")
    assert kind == "a config"
    assert found["network"]["head"] == "SegformerHead" and found["network"]["num_classes"] == 150
    assert 3.5e6 < found["parameters"] < 4.0e6, "SegFormer-B0 has 3.8 M parameters (arXiv 2105.15203, table 1)"
    kind, found = inspect_verb.describe("segc::recipes/quickstart.yaml")
    assert kind == "a recipe" and found["name"] == "quickstart"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("x.onnx", b"no protobuf \xff\xff", "not an ONNX"), ("x.txt", b"", "is no config"), ("x.pth", b"abc", "not a whole PyTorch")],
)
def test_damaged_and_unknown_files(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        inspect_verb.describe(str(tmp_path / name))


def test_doctor_agrees_with_the_packages_themselves() -> None:
    import onnxruntime

    done = subprocess.run([sys.executable, "-m", "segc.cli.main", "doctor", "--json"], capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    lines = {line["name"]: line for line in found["data"]["lines"]}
    assert done.returncode == 0
    assert lines["torch"]["found"] == torch.__version__
    assert lines["onnxruntime"]["found"] == f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"
    assert found["data"]["can"]["export"] is True


def test_doctor_says_what_a_missing_compiler_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = {line.name: line for line in doctor._compilers()}
    assert not found["C++ compiler"].ok and "torch" in found["C++ compiler"].found and "g++" in found["C++ compiler"].fix
    assert not found["nvcc"].ok and "CUDA_HOME" in found["nvcc"].fix


def _without(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise doctor.metadata.PackageNotFoundError(name)
        return real(name)

    errors = doctor.metadata.PackageNotFoundError
    monkeypatch.setattr(doctor, "metadata", SimpleNamespace(version=version, PackageNotFoundError=errors))


def test_doctor_names_the_command_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _without({"torch", "openvino"}, monkeypatch)
    lines = doctor.examine()
    missing = {line.name: line.fix for line in lines if not line.ok}
    assert missing["torch"] == "pip install 'segc[train]'" and missing["openvino"] == "pip install 'segc[openvino]'"
    able = doctor.abilities(lines)
    assert not able["train"] and not able["run on openvino"] and able["run on onnxruntime"]
    assert not [line for line in lines if line.core and not line.ok]


def test_doctor_fails_when_a_core_package_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._PROBES, "onnxruntime", "raise ImportError")
    broken = [line for line in doctor.examine() if line.core and not line.ok]
    assert [line.name for line in broken] == ["onnxruntime"] and "does not import" in broken[0].found
