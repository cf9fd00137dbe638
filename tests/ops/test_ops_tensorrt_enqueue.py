"""From the node's fields and tensors to the result: the whole plugin with emulated kernels, called as TensorRT calls it."""

from __future__ import annotations

import math
from pathlib import Path

import null_host
import plugin_host
import pytest
import torch
from null_host import FIELD_FLOAT32, FIELD_INT32, RUNTIME
from plugin_host import enqueue, error_of, scan_inputs
from torch import Tensor

from segc.core.errors import UserError
from segc.ops import reference
from segc.ops.tensorrt.build import find_nvcc, tensorrt_headers

TOLERANCE = {torch.float32: 2e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}  # of the largest magnitude


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> null_host.NullHost:
    folder: Path = tmp_path_factory.mktemp("emulated")
    try:
        nvcc, headers = find_nvcc(), tensorrt_headers()
    except UserError as error:
        pytest.skip(str(error))
    return null_host.open_library(null_host.compile_host(nvcc, headers, folder), plugin_host.compile_emulated_plugin(nvcc, headers, folder))


def exact(tensors: list[Tensor]) -> list[Tensor]:
    return [item.double() for item in tensors]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("softplus", "reverse"), [(0, 1), (1, 0)])
def test_scan(host: null_host.NullHost, dtype: torch.dtype, softplus: int, reverse: int) -> None:
    inputs = [item for item in scan_inputs(dtype, 1, 2, (5000,), 2, 2).values() if item is not None]
    if not softplus:
        inputs[1], inputs[6] = inputs[1].abs(), inputs[6].abs()
    plugin = host.create("SelectiveScan", {"delta_softplus": (FIELD_INT32, [softplus]), "reverse": (FIELD_INT32, [reverse])}, RUNTIME)
    assert plugin is not None
    wanted = reference.selective_scan(*exact(inputs), bool(softplus), bool(reverse))  # type: ignore[misc]
    assert error_of(enqueue(plugin, inputs), wanted) < TOLERANCE[dtype]
    copy = plugin.copy("attach")
    plugin.destroy()
    assert error_of(enqueue(copy, inputs), wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_scan(host: null_host.NullHost, dtype: torch.dtype) -> None:
    inputs = [item for item in scan_inputs(dtype, 2, 1, (50, 45), 1, 4).values() if item is not None]
    plugin = host.create("CrossSelectiveScan", {"delta_softplus": (FIELD_INT32, [1])}, RUNTIME)
    assert plugin is not None
    wanted = reference.cross_selective_scan(*exact(inputs), True)  # type: ignore[misc]
    assert error_of(enqueue(plugin, inputs), wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [None, torch.float32, "as q"])
def test_attention_with_one_map_after_another(host: null_host.NullHost, dtype: torch.dtype, bias: torch.dtype | str | None) -> None:
    fields = {"kernel_size": (FIELD_INT32, [5, 3]), "dilation": (FIELD_INT32, [1, 2]), "scale": (FIELD_FLOAT32, [0.4])}
    plugin = host.create("NeighborhoodAttention2D", fields, RUNTIME)
    assert plugin is not None
    for height, width in ((5, 6), (9, 13)):
        inputs = [torch.randn(2, height, width, 2, 24).to(dtype) for _ in range(3)]
        if bias is not None:
            inputs.append(torch.randn(2, 9, 5).to(dtype if bias == "as q" else torch.float32))
        q, k, v, *rest = exact(inputs)
        wanted = reference.neighborhood_attention_2d(q, k, v, (5, 3), (1, 2), 0.4, *rest)
        assert error_of(enqueue(plugin, inputs), wanted) < TOLERANCE[dtype]


def test_two_plugins_keep_their_own_attributes(host: null_host.NullHost) -> None:
    inputs = [torch.randn(1, 9, 9, 1, 8) for _ in range(3)]
    for kernel in (3, 7):
        fields = {"kernel_size": (FIELD_INT32, [kernel, kernel]), "scale": (FIELD_FLOAT32, [1 / math.sqrt(8)])}
        plugin = host.create("NeighborhoodAttention2D", fields, RUNTIME)
        assert plugin is not None
        wanted = reference.neighborhood_attention_2d(*exact(inputs), (kernel, kernel))  # type: ignore[misc]
        assert error_of(enqueue(plugin, inputs), wanted) < TOLERANCE[torch.float32]
