"""The TensorRT plugin's kernels on a real GPU, started by a host that stands in for TensorRT, against the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import null_host
import pytest
import torch
from null_host import FIELD_FLOAT32, FIELD_INT32, RUNTIME, tensor
from plugin_host import DATA_TYPES, enqueue, error_of, pointers, scan_inputs

from segc.core.errors import UserError
from segc.ops import reference
from segc.ops.tensorrt.build import build_plugin, find_nvcc, tensorrt_headers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU, or a torch without CUDA")

TOLERANCE = {torch.float32: 4e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}  # of the largest magnitude
DTYPES = list(TOLERANCE)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> null_host.NullHost:
    try:
        nvcc, headers = find_nvcc(), tensorrt_headers()
    except UserError as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("host")
    major, minor = torch.cuda.get_device_capability()
    return null_host.open_library(null_host.compile_host(nvcc, headers, folder), build_plugin([10 * major + minor], headers))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize(
    ("batch", "channels", "length", "states", "groups"),
    [(1, 8, 16384, 1, 4), (2, 6, 4111, 3, 2), (1, 1, 50001, 2, 1), (1, 64, 256, 16, 1), (3, 2, 1, 1, 1)],
)
def test_scan(
    host: null_host.NullHost, dtype: torch.dtype, reverse: int, batch: int, channels: int, length: int, states: int, groups: int
) -> None:
    torch.manual_seed(length)
    inputs = list(scan_inputs(dtype, batch, channels, (length,), states, groups).values())
    fields = {"delta_softplus": (FIELD_INT32, [1]), "reverse": (FIELD_INT32, [reverse])}
    plugin = host.create("SelectiveScan", fields, RUNTIME)
    assert plugin is not None
    found = enqueue(plugin, [item.cuda() for item in inputs])
    wanted = reference.selective_scan(*[item.double() for item in inputs], True, bool(reverse))  # type: ignore[misc]
    assert error_of(found, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "states"), [(128, 128, 1), (64, 48, 2), (33, 65, 1), (16, 16, 16), (5, 3000, 1), (3000, 5, 1)])
def test_cross_scan(host: null_host.NullHost, dtype: torch.dtype, height: int, width: int, states: int) -> None:
    torch.manual_seed(height)
    inputs = list(scan_inputs(dtype, 1, 4, (height, width), states, 4).values())
    plugin = host.create("CrossSelectiveScan", {"delta_softplus": (FIELD_INT32, [1])}, RUNTIME)
    assert plugin is not None
    on_gpu = [item.cuda() for item in inputs]
    found = enqueue(plugin, on_gpu)
    wanted = reference.cross_selective_scan(*[item.double() for item in inputs], True)  # type: ignore[misc]
    assert error_of(found, wanted) < TOLERANCE[dtype]
    assert torch.equal(found, enqueue(plugin, on_gpu)), "two runs differ"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "kernel", "dilation", "bias"),
    [
        ((1, 64, 64, 1, 32), (11, 11), (1, 1), torch.float32),  # SegMAN-T, by kernel and head_dim
        ((1, 64, 64, 2, 32), (9, 9), (1, 1), torch.float32),
        ((2, 32, 32, 4, 36), (9, 9), (1, 1), torch.float32),
        ((1, 16, 16, 8, 24), (7, 7), (1, 1), torch.float32),
        ((1, 40, 37, 2, 64), (5, 7), (3, 2), None),
        ((1, 21, 70, 1, 128), (13, 63), (1, 1), None),
        ((1, 12, 30, 1, 256), (5, 29), (1, 1), None),
        ((1, 15, 14, 2, 33), (3, 5), (1, 2), None),
    ],
    ids=str,
)
def test_attention(
    host: null_host.NullHost, dtype: torch.dtype, shape: tuple, kernel: tuple, dilation: tuple, bias: torch.dtype | None
) -> None:
    torch.manual_seed(shape[1])
    inputs = [torch.randn(shape).to(dtype) for _ in range(3)]
    if bias is not None:
        inputs.append(torch.randn(shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1).to(bias))
    scale = 2.0 / math.sqrt(shape[4])
    plugin = attention_plugin(host, kernel, dilation, scale)
    found = enqueue(plugin, [item.cuda() for item in inputs])
    exact = [item.double() for item in inputs]
    wanted = reference.neighborhood_attention_2d(exact[0], exact[1], exact[2], kernel, dilation, scale, exact[3] if bias else None)
    assert error_of(found, wanted) < TOLERANCE[dtype]


def attention_plugin(host: null_host.NullHost, kernel: Sequence[int], dilation: Sequence[int], scale: float) -> null_host.Plugin:
    fields = {"kernel_size": (FIELD_INT32, kernel), "dilation": (FIELD_INT32, dilation), "scale": (FIELD_FLOAT32, [scale])}
    plugin = host.create("NeighborhoodAttention2D", fields, RUNTIME)
    assert plugin is not None, host.log()
    return plugin


def test_one_plugin_serves_shapes_one_after_the_other(host: null_host.NullHost) -> None:
    """A dynamic engine: onShapeChange, enqueue, and again with another map."""
    plugin = attention_plugin(host, (7, 7), (1, 1), 0.3)
    for size in (16, 9, 31):
        inputs = [torch.randn(1, size, size + 3, 2, 16) for _ in range(3)]
        wanted = reference.neighborhood_attention_2d(*[item.double() for item in inputs], (7, 7), (1, 1), 0.3)  # type: ignore[misc]
        assert error_of(enqueue(plugin, [item.half().cuda() for item in inputs]), wanted) < 4e-3


def test_enqueue_can_be_captured_in_a_cuda_graph(host: null_host.NullHost) -> None:
    """TensorRT users capture engines: nothing in enqueue may synchronise or allocate."""
    plugin = host.create("CrossSelectiveScan", {"delta_softplus": (FIELD_INT32, [1])}, RUNTIME)
    assert plugin is not None
    inputs = [item.cuda() for item in scan_inputs(torch.float32, 1, 2, (64, 64), 1, 4).values() if item is not None]
    wanted = enqueue(plugin, inputs)
    output = torch.full_like(wanted, math.nan)
    described = [tensor(item.shape, DATA_TYPES[item.dtype]) for item in (*inputs, output)]
    workspace = torch.empty(plugin.call("workspace", described), dtype=torch.uint8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        code = plugin.call("enqueue", described, *pointers(inputs, output, workspace))
    assert code == 0, host.log()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, wanted)
