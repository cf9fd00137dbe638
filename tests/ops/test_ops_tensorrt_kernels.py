"""The arithmetic of the TensorRT plugin's CUDA kernels, run on the host with emulated blocks, warps and tensor cores, against float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import plugin_host
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_host import error_of, scan_inputs
from torch import Tensor

from segc.ops import reference

# Of the largest magnitude of the reference: float32 arithmetic, then one rounding to the storage type.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 8e-4, torch.bfloat16: 6e-3}
DTYPES = list(TOLERANCE)
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = plugin_host.compile_kernels(tmp_path_factory.mktemp("kernels"))
    if library is None:
        pytest.skip("no C++ compiler: apt-get install g++")
    return library


def scanned(kernels: ctypes.CDLL, inputs: dict[str, Tensor | None], softplus: bool, reverse: bool, multiprocessors: int) -> float:
    """Relative error of the kernels' result."""
    given = {("bias" if name == "delta_bias" else name): tensor for name, tensor in inputs.items()}
    found = plugin_host.scan(kernels, given, softplus, reverse, multiprocessors)
    exact = [None if (tensor := inputs[name]) is None else tensor.double() for name in NAMES]
    if found.dim() == 4:
        return error_of(found, reference.cross_selective_scan(*exact, softplus))  # type: ignore[arg-type]
    return error_of(found, reference.selective_scan(*exact, softplus, reverse))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("length", "states", "groups", "multiprocessors"),
    [(1, 1, 2, 16), (37, 3, 2, 16), (2048, 1, 1, 16), (4111, 2, 2, 1), (6144, 1, 1, 16), (6150, 2, 2, 16)],
    ids=["one step", "odd", "one tile", "tiles in turn", "segments aligned", "segments odd"],
)
def test_scan(kernels: ctypes.CDLL, dtype: torch.dtype, reverse: bool, length: int, states: int, groups: int, multiprocessors: int) -> None:
    torch.manual_seed(length)
    inputs = scan_inputs(dtype, 1, 2, (length,), states, groups)
    assert scanned(kernels, inputs, True, reverse, multiprocessors) < TOLERANCE[dtype]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_scan_of_any_shape(kernels: ctypes.CDLL, data: st.DataObject) -> None:
    draw: Callable = data.draw
    groups, share = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    torch.manual_seed(draw(st.integers(0, 999)))
    dtype, places = draw(st.sampled_from(DTYPES)), (draw(st.integers(1, 600)),)
    inputs = scan_inputs(dtype, draw(st.integers(1, 2)), groups * share, places, draw(st.integers(1, 4)), groups, draw(st.booleans()))
    softplus = draw(st.booleans())
    if not softplus:  # steps stay positive: a state that grows would leave float32's range
        inputs.update({name: tensor.abs() for name in ("delta", "delta_bias") if (tensor := inputs[name]) is not None})
    error = scanned(kernels, inputs, softplus, draw(st.booleans()), draw(st.sampled_from([1, 16])))
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("height", "width", "states"),
    [(1, 1, 1), (9, 7, 2), (16, 8, 1), (60, 72, 1), (2100, 2, 1), (3, 900, 2)],
    ids=["one place", "odd", "aligned", "three tiles", "column longer than a tile", "wide"],
)
def test_cross_scan(kernels: ctypes.CDLL, dtype: torch.dtype, height: int, width: int, states: int) -> None:
    torch.manual_seed(height)
    inputs = scan_inputs(dtype, 2 if height < 20 else 1, 2, (height, width), states, 4)
    assert scanned(kernels, inputs, True, False, 16) < TOLERANCE[dtype]


def test_a_cross_scan_tells_its_directions_apart(kernels: ctypes.CDLL) -> None:
    """One impulse; each direction has its own decay, so that a swapped pair of directions gives another map."""
    inputs = scan_inputs(torch.float32, 1, 1, (5, 4), 1, 4, optional=False)
    inputs["u"] = torch.zeros(1, 1, 5, 4)
    inputs["u"][0, 0, 2, 1] = 1.0
    inputs["A"] = -torch.tensor([[0.1], [0.4], [1.1], [2.5]])
    assert scanned(kernels, inputs, True, False, 16) < 1e-6


def test_nan_stays_in_the_later_steps_of_its_channel(kernels: ctypes.CDLL) -> None:
    inputs = scan_inputs(torch.float32, 1, 2, (5000,), 2, 1)
    inputs["u"][0, 1, 3000] = math.nan  # type: ignore[index]
    given = {("bias" if name == "delta_bias" else name): tensor for name, tensor in inputs.items()}
    for reverse in (False, True):
        bad = plugin_host.scan(kernels, given, True, reverse, 16).isnan()
        assert not bad[0, 0].any()
        assert bad[0, 1, 3000]
        later, earlier = (bad[0, 1, :3000], bad[0, 1, 3001:]) if reverse else (bad[0, 1, 3001:], bad[0, 1, :3000])
        assert later.all() and not earlier.any()


def test_no_result_depends_on_the_order_of_threads(kernels: ctypes.CDLL) -> None:
    """A value read before its barrier, or overwritten too early, gives another result in one of the two orders."""
    qkv = [torch.randn(1, 12, 13, 1, 32) for _ in range(3)]
    rows, maps = scan_inputs(torch.float32, 1, 1, (9000,), 2, 1), scan_inputs(torch.float32, 1, 1, (60, 72), 2, 4)

    def results() -> list[Tensor]:
        found = []
        for inputs in (rows, maps):
            given = {("bias" if name == "delta_bias" else name): tensor for name, tensor in inputs.items()}
            found += [plugin_host.scan(kernels, given, True, inputs is rows, multiprocessors) for multiprocessors in (1, 16)]
        for dtype in (torch.float32, torch.float16):
            q, k, v = (tensor.to(dtype) for tensor in qkv)
            found.append(plugin_host.attention(kernels, (q, k, v), (7, 7), (1, 1), 0.3, None, True))
        return found

    forwards = results()
    kernels.host_order(1)
    backwards = results()
    kernels.host_order(0)
    assert all(torch.equal(one, other) for one, other in zip(forwards, backwards, strict=True))


def test_long_memory_is_carried_across_segments(kernels: ctypes.CDLL) -> None:
    """With no decay, y is the running sum of the input: what segments forget would be missing."""
    length = 9000
    inputs = scan_inputs(torch.float32, 1, 1, (length,), 1, 1, optional=False)
    inputs.update(A=torch.zeros(1, 1), delta=torch.ones(1, 1, length), u=torch.rand(1, 1, length))
    for name in ("B", "C"):
        inputs[name] = torch.ones(1, 1, 1, length)
    found = plugin_host.scan(kernels, {name: tensor for name, tensor in inputs.items() if name != "delta_bias"}, False, False, 100)
    assert torch.allclose(found.double(), inputs["u"].double().cumsum(-1), rtol=1e-5)  # type: ignore[union-attr]


def attended(
    kernels: ctypes.CDLL,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    bias: torch.dtype | None,
    tensor_cores: bool = True,
) -> float:
    """Relative error of the kernel's result on random input, logits spread by about 2."""
    q, k, v = (torch.randn(shape).to(dtype) for _ in range(3))
    rpb = None if bias is None else torch.randn(shape[3], 2 * kernel[0] - 1, 2 * kernel[1] - 1).to(bias)
    scale = 2.0 / math.sqrt(shape[4])
    found = plugin_host.attention(kernels, (q, k, v), kernel, dilation, scale, rpb, tensor_cores)
    exact = None if rpb is None else rpb.double()
    return error_of(found, reference.neighborhood_attention_2d(q.double(), k.double(), v.double(), kernel, dilation, scale, exact))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "kernel", "dilation", "bias"),
    [
        ((2, 9, 9, 2, 8), (3, 3), (1, 1), torch.float32),
        ((1, 7, 7, 1, 24), (7, 7), (1, 1), torch.float32),  # SegMAN-T's last stage: the window is the map
        ((1, 13, 19, 1, 32), (11, 11), (1, 1), torch.float32),
        ((1, 12, 10, 1, 36), (9, 5), (1, 2), None),
        ((1, 17, 16, 2, 33), (5, 3), (3, 4), torch.float32),  # groups of unequal size, odd head_dim
        ((1, 8, 70, 1, 64), (3, 63), (1, 1), None),
        ((1, 5, 9, 1, 128), (5, 7), (1, 1), torch.float32),
        ((1, 5, 30, 1, 256), (5, 29), (1, 1), None),  # a halo row passes in pieces
        ((1, 11, 9, 1, 1), (3, 3), (1, 1), None),
    ],
    ids=str,
)
def test_attention(
    kernels: ctypes.CDLL, dtype: torch.dtype, shape: tuple, kernel: tuple, dilation: tuple, bias: torch.dtype | None
) -> None:
    torch.manual_seed(shape[1])
    assert attended(kernels, dtype, shape, kernel, dilation, bias) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tensor_cores", [True, False])
def test_attention_in_half_precision_with_and_without_tensor_cores(kernels: ctypes.CDLL, dtype: torch.dtype, tensor_cores: bool) -> None:
    torch.manual_seed(1)
    assert attended(kernels, dtype, (1, 10, 11, 2, 20), (5, 7), (2, 1), dtype, tensor_cores) < TOLERANCE[dtype]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_attention_of_any_shape(kernels: ctypes.CDLL, data: st.DataObject) -> None:
    draw: Callable = data.draw
    kernel = (draw(st.sampled_from([3, 5, 7])), draw(st.sampled_from([3, 5, 9])))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    height, width = (k * d + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True))
    dtype = draw(st.sampled_from(DTYPES))
    torch.manual_seed(draw(st.integers(0, 999)))
    shape = (1, height, width, draw(st.integers(1, 2)), draw(st.integers(1, 40)))
    assert attended(kernels, dtype, shape, kernel, dilation, draw(st.sampled_from([None, dtype, torch.float32]))) < TOLERANCE[dtype]


def test_nan_reaches_the_queries_that_see_it(kernels: ctypes.CDLL) -> None:
    """Float32; tensor cores spread it over a tile, as attention_cores.h says."""
    q, k, v = (torch.randn(1, 12, 12, 1, 8) for _ in range(3))
    v[0, 3, 9] = math.nan
    bad = plugin_host.attention(kernels, (q, k, v), (3, 3), (1, 1), 0.3, None, False).isnan().any(-1)[0, :, :, 0]
    wanted = reference.neighborhood_attention_2d(q, k, v, (3, 3), (1, 1), 0.3).isnan().any(-1)[0, :, :, 0]
    assert 0 < wanted.sum() < 20
    assert torch.equal(bad, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_storage_types_is_torchs(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = patterns[patterns.isfinite()].float()
    edges = torch.tensor([0.0, -0.0, 65519.9, 65520.0, 65536.0, 2.9e-8, 3.0e-8, 6.1e-5, math.inf, -math.inf, 3.4e38])
    values = torch.cat([finite, finite * (1 + 2**-12), finite * (1 - 2**-9), edges]).contiguous()
    rounded = torch.empty(len(values), dtype=torch.int16)
    widened = torch.empty(len(patterns))
    number = plugin_host.TYPES[dtype]
    kernels.host_round(ctypes.c_void_p(values.data_ptr()), number, ctypes.c_void_p(rounded.data_ptr()), ctypes.c_size_t(len(values)))
    kernels.host_widen(ctypes.c_void_p(patterns.data_ptr()), number, ctypes.c_void_p(widened.data_ptr()), ctypes.c_size_t(len(patterns)))
    assert torch.equal(rounded, values.to(dtype).view(torch.int16))
    assert torch.equal(widened.nan_to_num(7.0, math.inf, -math.inf), patterns.float().nan_to_num(7.0, math.inf, -math.inf))


def test_workspace_grows_with_every_dimension(kernels: ctypes.CDLL) -> None:
    """The bound for a profile's largest shapes serves all its shapes."""

    def bytes_of(batch: int, channels: int, height: int, width: int, states: int, cross: bool) -> int:
        problem = plugin_host.ScanProblem(0, batch, channels, height, width, states, 4, cross)
        return kernels.host_scan_workspace(ctypes.byref(problem))

    for cross in (False, True):
        for height, width in ((1, 7), (1, 2048), (33, 65), (64, 64), (1, 70000)):
            base = bytes_of(2, 4, height, width, 2, cross)
            grown = [(3, 4, height, width, 2), (2, 8, height, width, 2), (2, 4, height + 1, width, 2), (2, 4, height, width + 1, 2)]
            assert all(bytes_of(*dimensions, cross) >= base for dimensions in [*grown, (2, 4, height, width, 3)])


def test_the_emulation_refuses_a_barrier_that_not_all_threads_reach(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests above would not see a missing barrier if the emulation did not."""
    done = plugin_host.run_broken_kernel(tmp_path_factory.mktemp("broken"))
    if done is None:
        pytest.skip("no C++ compiler: apt-get install g++")
    assert done.returncode != 0
    assert "a barrier was not reached by all threads" in done.stderr
