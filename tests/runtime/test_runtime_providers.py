"""ONNX Runtime's GPU providers: what is asked of it, and that its silent fall-back to the CPU is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from toy import DYNAMIC, make_bundle, save_graph

from segc.core.errors import UserError
from segc.runtime import runner as runners
from segc.runtime.benchmark import all_targets
from segc.runtime.gpu import Gpu
from segc.runtime.runner import open_runner

GPU = {"onnxruntime_cuda": "CUDAExecutionProvider", "onnxruntime_tensorrt": "TensorrtExecutionProvider"}


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return str(save_graph(tmp_path / "g.onnx", DYNAMIC))


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """An ONNX Runtime that has the GPU providers; what its sessions were asked for. It runs what it is asked on the CPU."""
    asked: list[list[Any]] = []
    real = ort.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]
        def __init__(self, path: Path, options: Any, providers: list[Any], **others: Any) -> None:
            asked.append(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"], **others)

        def get_providers(self) -> list[str]:
            return [name for name, _ in asked[-1]] + ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "get_available_providers", lambda: [*GPU.values(), "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    return asked


@pytest.mark.parametrize("backend", GPU)
def test_a_build_without_the_provider_says_what_to_install(graph: str, backend: str) -> None:
    if GPU[backend] in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has it")
    with pytest.raises(UserError, match=rf"has no {GPU[backend]}; it has .*CPUExecutionProvider.* pip uninstall -y onnxruntime"):
        open_runner(graph, backend)


@pytest.mark.parametrize("backend", GPU)
def test_a_provider_that_is_dropped_is_an_error(graph: str, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """What ONNX Runtime does where a library of the provider is missing: a warning, and the CPU."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [GPU[backend], "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, providers, **others: real(path, options, ["CPUExecutionProvider"], **others)
    )
    with pytest.raises(UserError, match=rf"{GPU[backend]} did not become active .* fell back to CPUExecutionProvider"):
        open_runner(graph, backend)


def test_what_a_session_is_asked_for(graph: str, gpu_build: list[list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEGC_CACHE", str(tmp_path))
    assert open_runner(graph, "onnxruntime_cuda").backend == "onnxruntime_cuda"
    assert open_runner(graph, "onnxruntime_tensorrt").backend == "onnxruntime_tensorrt"
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path / "onnxruntime_tensorrt")}
    assert gpu_build == [[cuda], [("TensorrtExecutionProvider", cache), cuda]]


@pytest.mark.parametrize("gpu", [True, False])
def test_all_measures_a_provider_where_there_is_a_gpu(
    gpu_build: list[list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: bool
) -> None:
    monkeypatch.setattr(runners, "find_gpu", lambda: Gpu("Orin", "8.7", "12.6") if gpu else None)
    backends = {backend for _, backend in all_targets(make_bundle(tmp_path / "bundle"))}
    assert "onnxruntime" in backends and (backends >= set(GPU)) == gpu and (backends & set(GPU) == set()) != gpu


def test_a_mere_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_of_a_checkout").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not runners.Backend("", "", "tensorrt_of_a_checkout", "", "engine").installed
    assert runners.BACKENDS["onnxruntime"].installed
