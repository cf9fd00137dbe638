"""The TensorRT plugin library, compiled for one GPU and called without TensorRT and without a GPU; and loaded into a real registry."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import null_host
import pytest
import torch
from null_host import BF16, BUILD, CHW2, FIELD_CHAR, FIELD_FLOAT32, FIELD_INT32, FIELD_INT64, FLOAT, HALF, INT8, RUNTIME, tensor

from segc.core.errors import UserError
from segc.ops.onnx_functions.signature import PLUGIN_ATTRIBUTES, SIGNATURES
from segc.ops.tensorrt.build import build_plugin, find_nvcc, tensorrt_headers

FIELDS = {
    "SelectiveScan": {"delta_softplus": (FIELD_INT32, [1]), "reverse": (FIELD_INT32, [1])},
    "CrossSelectiveScan": {"delta_softplus": (FIELD_INT32, [1])},
    "NeighborhoodAttention2D": {
        "kernel_size": (FIELD_INT32, [7, 9]),
        "dilation": (FIELD_INT32, [1, 2]),
        "scale": (FIELD_FLOAT32, [0.1767766922712326]),
    },
}
SHAPES = {  # of the inputs, and of the output
    "SelectiveScan": [(2, 8, 5000), (2, 8, 5000), (8, 3), (2, 4, 3, 5000), (2, 4, 3, 5000), (8,), (8,), (2, 8, 5000)],
    "CrossSelectiveScan": [
        *[(2, 8, 60, 70), (2, 32, 60, 70), (32, 3), (2, 4, 3, 60, 70), (2, 4, 3, 60, 70), (32,), (32,)],
        (2, 8, 60, 70),
    ],
    "NeighborhoodAttention2D": [*[(2, 20, 30, 4, 32)] * 3, (4, 13, 17), (2, 20, 30, 4, 32)],
}
FLOAT_WEIGHTS = {"A", "D", "delta_bias"}


@pytest.fixture(scope="module")
def tools() -> tuple[str, Path]:
    """nvcc and TensorRT's headers; skipped by name where either is missing."""
    try:
        return find_nvcc(), tensorrt_headers()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def library(tools: tuple[str, Path]) -> Path:
    return build_plugin([87])


@pytest.fixture(scope="module")
def host(tools: tuple[str, Path], library: Path, tmp_path_factory: pytest.TempPathFactory) -> null_host.NullHost:
    return null_host.open_library(null_host.compile_host(*tools, tmp_path_factory.mktemp("host")), library)


def make(host: null_host.NullHost, name: str, phase: int = BUILD) -> null_host.Plugin:
    plugin = host.create(name, FIELDS[name], phase)
    assert plugin is not None, host.log()
    return plugin


def described(name: str, dtype: int) -> list[null_host.HostTensor]:
    """The tensors of ``SHAPES``; A, D and delta_bias in float32."""
    signature = SIGNATURES[name]
    names = [*signature.inputs, *signature.optional, signature.output]
    return [tensor(shape, FLOAT if key in FLOAT_WEIGHTS else dtype) for key, shape in zip(names, SHAPES[name], strict=True)]


def test_the_library_needs_no_tensorrt(library: Path) -> None:
    undefined = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True).stdout
    assert "nvinfer" not in undefined.lower()
    assert "getPluginRegistry" not in undefined


def test_creators_are_those_of_the_signature(host: null_host.NullHost) -> None:
    kinds = {"int": FIELD_INT32, "ints": FIELD_INT32, "float": FIELD_FLOAT32}
    for index, (name, signature) in enumerate(SIGNATURES.items()):
        kind, found, version, namespace, fields = host.library.host_creator(index).decode().split("|")
        assert (kind, found) == ("PLUGIN CREATOR_V3ONE", name)
        assert {"plugin_version": version, "plugin_namespace": namespace} == PLUGIN_ATTRIBUTES
        assert fields == ",".join(f"{key}:{kinds[kind]}x{2 if kind == 'ints' else 1}" for key, kind in signature.attributes.items())
    assert host.names == list(SIGNATURES)


@pytest.mark.parametrize("phase", [BUILD, RUNTIME])
@pytest.mark.parametrize("name", SIGNATURES)
def test_a_plugin_has_all_capabilities(host: null_host.NullHost, name: str, phase: int) -> None:
    plugin = make(host, name, phase)
    *words, timing = plugin.describe()
    assert words == ["PLUGIN_V3ONE_CORE", "PLUGIN_V3ONE_BUILD", "PLUGIN_V3ONE_RUNTIME", name, "1", "segc", "1"]
    assert timing.startswith(f"segc.{name}.1.")
    plugin.destroy()


def test_timing_cache_id_tells_attributes_apart(host: null_host.NullHost) -> None:
    other = host.create("NeighborhoodAttention2D", {**FIELDS["NeighborhoodAttention2D"], "scale": (FIELD_FLOAT32, [0.17677670])})
    assert other is not None
    assert other.describe()[-1] != make(host, "NeighborhoodAttention2D").describe()[-1]


@pytest.mark.parametrize("name", SIGNATURES)
def test_fields_survive_serialisation_and_copies(host: null_host.NullHost, name: str) -> None:
    plugin = make(host, name)
    stored = plugin.fields()
    wanted = {key: (kind, pytest.approx(values, rel=1e-7)) for key, (kind, values) in FIELDS[name].items()}
    assert stored == wanted
    again = host.create(name, stored, RUNTIME)
    assert again is not None
    for copy in (again, plugin.copy("clone"), plugin.copy("attach")):
        assert copy.fields() == stored
        assert copy.describe() == plugin.describe()
        assert copy.call("configure", described(name, HALF)) == 0
        copy.destroy()
    plugin.destroy()


@pytest.mark.parametrize("dtype", [FLOAT, HALF, BF16])
@pytest.mark.parametrize("name", SIGNATURES)
def test_output_is_shaped_and_typed_as_the_first_input(host: null_host.NullHost, name: str, dtype: int) -> None:
    plugin = make(host, name)
    inputs = described(name, dtype)[:-1]
    array = (null_host.HostTensor * len(inputs))(*inputs)
    assert host.library.host_output_shape(plugin.address, array, len(inputs)) == 0
    assert host.library.host_output_type(plugin.address, array, len(inputs)) == dtype


@pytest.mark.parametrize("name", SIGNATURES)
def test_formats(host: null_host.NullHost, name: str) -> None:
    """Every pair of a position's type and the first input's type, linear and not."""
    plugin = make(host, name)
    names = [*SIGNATURES[name].inputs, *SIGNATURES[name].optional, "y"]
    for first, other, position in itertools.product((FLOAT, HALF, BF16, INT8), (FLOAT, HALF, BF16, INT8), range(len(names))):
        tensors = described(name, first)
        tensors[position].type = first if position == 0 else other
        key = names[position]
        if position == 0:
            wanted = first != INT8
        elif key in FLOAT_WEIGHTS:
            wanted = other == FLOAT
        else:
            wanted = other == first or (key == "rpb" and other == FLOAT)
        assert plugin.supports(position, tensors) == wanted, (key, first, other)
        tensors[position].format = CHW2
        assert not plugin.supports(position, tensors)


@pytest.mark.parametrize("dtype", [FLOAT, HALF, BF16])
@pytest.mark.parametrize("name", SIGNATURES)
def test_shapes_are_accepted(host: null_host.NullHost, name: str, dtype: int) -> None:
    plugin = make(host, name)
    tensors = described(name, dtype)
    assert plugin.call("configure", tensors) == 0, host.log()
    assert plugin.call("shape_change", tensors) == 0, host.log()
    for item in tensors:
        item.dims[0] = -1
    assert plugin.call("configure", tensors) == 0, host.log()


def test_attention_without_a_bias_has_three_inputs(host: null_host.NullHost) -> None:
    plugin = make(host, "NeighborhoodAttention2D")
    tensors = described("NeighborhoodAttention2D", HALF)
    assert plugin.call("shape_change", [*tensors[:3], tensors[4]]) == 0, host.log()


def test_workspace_is_that_of_the_largest_shape(host: null_host.NullHost) -> None:
    static = make(host, "CrossSelectiveScan").call("workspace", described("CrossSelectiveScan", HALF))
    segments = -(-60 * 70 // 2048)
    assert static >= 2 * 8 * 60 * 70 * 4 + 2 * 32 * segments * 3 * 8
    assert static < 1.1 * (2 * 8 * 60 * 70 * 4 + 2 * 32 * segments * 3 * 8)
    dynamic = described("CrossSelectiveScan", HALF)
    for item in dynamic:
        item.dims[item.rank - 1] = -1
    assert make(host, "CrossSelectiveScan").call("workspace", dynamic) == static
    assert make(host, "NeighborhoodAttention2D").call("workspace", described("NeighborhoodAttention2D", HALF)) == 0
    short = [tensor((1, 4, 2048)), tensor((1, 4, 2048)), tensor((4, 1)), *[tensor((1, 1, 1, 2048))] * 2, *[tensor((4,))] * 2]
    assert make(host, "SelectiveScan").call("workspace", [*short, tensor((1, 4, 2048))]) == 0


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("NeighborhoodAttention2D", {"kernel_size": (FIELD_INT32, [7, 8])}, "kernel_size over the columns is 8"),
        ("NeighborhoodAttention2D", {"kernel_size": (FIELD_INT32, [7])}, "attribute kernel_size has type number 5 and 1 values"),
        ("NeighborhoodAttention2D", {"kernel_size": (FIELD_CHAR, [b"7", b"7"])}, "expected 2 of int32"),
        ("NeighborhoodAttention2D", {"dilation": (FIELD_INT32, [0, 1])}, "dilation over the rows is 0"),
        ("NeighborhoodAttention2D", {"scale": (FIELD_FLOAT32, [float("nan")])}, "attribute scale"),
        ("NeighborhoodAttention2D", {"kernel": (FIELD_INT32, [7, 7])}, "attribute kernel is not known"),
        ("NeighborhoodAttention2D", {"scale": None}, "attribute scale is missing"),
        ("SelectiveScan", {"reverse": (FIELD_INT32, [2])}, "reverse is 2; expected 0 or 1"),
        ("CrossSelectiveScan", {"reverse": (FIELD_INT32, [1])}, "attribute reverse is not known"),
    ],
)
def test_wrong_attributes_are_named(host: null_host.NullHost, name: str, changes: dict, words: str) -> None:
    host.log()
    fields = {key: value for key, value in {**FIELDS[name], **changes}.items() if value is not None}
    assert host.create(name, fields) is None
    logged = host.log()
    assert words in logged
    assert logged.startswith(f"1 segc: {name}: ")  # 1: ILogger::Severity::kERROR


def test_int64_attributes_are_read(host: null_host.NullHost) -> None:
    plugin = host.create("NeighborhoodAttention2D", {**FIELDS["NeighborhoodAttention2D"], "kernel_size": (FIELD_INT64, [7, 9])})
    assert plugin is not None
    assert plugin.fields()["kernel_size"] == (FIELD_INT32, [7, 9])


@pytest.mark.parametrize(
    ("name", "position", "shape", "words"),
    [
        ("SelectiveScan", 0, (2, 8, 50, 100), "u has shape (2, 8, 50, 100)"),
        ("SelectiveScan", 1, (2, 8, 4999), "delta has shape (2, 8, 4999); expected (2, 8, 5000)"),
        ("SelectiveScan", 2, (7, 3), "A has shape (7, 3); expected (8, -1)"),
        ("SelectiveScan", 3, (2, 4, 2, 5000), "B has shape (2, 4, 2, 5000)"),
        ("SelectiveScan", 6, (9,), "delta_bias has shape (9)"),
        ("SelectiveScan", 0, (2, 0, 5000), "expected every size from 1"),
        ("CrossSelectiveScan", 1, (2, 8, 60, 70), "expected (2, 32, 60, 70)"),
        ("CrossSelectiveScan", 4, (2, 1, 3, 60, 70), "C has shape (2, 1, 3, 60, 70)"),
        ("NeighborhoodAttention2D", 0, (2, 20, 30, 128), "q has shape"),
        ("NeighborhoodAttention2D", 2, (2, 20, 30, 4, 16), "v has shape"),
        ("NeighborhoodAttention2D", 3, (4, 13, 13), "rpb has shape (4, 13, 13); expected (4, 13, 17)"),
    ],
)
def test_wrong_shapes_are_named(host: null_host.NullHost, name: str, position: int, shape: tuple[int, ...], words: str) -> None:
    plugin = make(host, name)
    tensors = described(name, FLOAT)
    tensors[position] = tensor(shape)
    host.log()
    assert plugin.call("shape_change", tensors) != 0
    assert words in host.log()


def test_more_refusals_are_named(host: null_host.NullHost) -> None:
    attention, scan = make(host, "NeighborhoodAttention2D"), make(host, "SelectiveScan")
    small, wide = (1, 20, 17, 4, 32), (1, 20, 30, 1, 257)
    host.log()
    assert attention.call("shape_change", [tensor(small)] * 4) != 0
    assert "kernel_size x dilation over the columns is 18, but q has 17" in host.log()
    assert attention.call("shape_change", [tensor(wide)] * 4) != 0
    assert "head_dim 257; expected at most 256" in host.log()
    groups = described("SelectiveScan", FLOAT)
    groups[3] = groups[4] = tensor((2, 3, 3, 5000))
    assert scan.call("shape_change", groups) != 0
    assert "3 groups; expected a divisor of the 8 channels" in host.log()
    states = described("SelectiveScan", FLOAT)
    states[2], states[3], states[4] = tensor((8, 513)), tensor((2, 4, 513, 5000)), tensor((2, 4, 513, 5000))
    assert scan.call("shape_change", states) != 0
    assert "d_state 513; expected at most 512" in host.log()
    long = [tensor([1 << 27 if size == 5000 else size for size in shape]) for shape in SHAPES["SelectiveScan"]]
    assert scan.call("shape_change", long) != 0
    assert "u has 134217728 steps; expected at most 67108864" in host.log()
    assert scan.call("shape_change", described("SelectiveScan", FLOAT)[1:]) != 0
    assert "has 6 inputs; expected 7" in host.log()
    half_weights = described("SelectiveScan", HALF)
    half_weights[2].type = HALF
    assert scan.call("shape_change", half_weights) != 0
    assert "float32 for A, D and delta_bias" in host.log()


def test_a_launch_that_fails_is_an_error_with_a_sentence(host: null_host.NullHost) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: the launch would not fail")
    plugin, tensors = make(host, "SelectiveScan"), described("SelectiveScan", HALF)
    pointers = [None, None, None, None]
    host.log()
    assert plugin.call("enqueue", tensors, *pointers) != 0
    assert "enqueue came before onShapeChange" in host.log()
    assert plugin.call("shape_change", tensors) == 0
    data = (ctypes.c_void_p * 7)()
    assert plugin.call("enqueue", tensors, ctypes.addressof(data), *pointers[1:]) != 0
    assert "the kernel was not started: " in host.log()


REGISTRY = """
import sys
import numpy as np
import tensorrt_rtx_bindings as trt

registry = trt.Builder(trt.Logger(trt.Logger.ERROR)).get_plugin_registry()
registry.load_library(sys.argv[1])
kinds = {"int": (np.int32, trt.PluginFieldType.INT32), "ints": (np.int32, trt.PluginFieldType.INT32),
         "float": (np.float32, trt.PluginFieldType.FLOAT32)}
fields = {"SelectiveScan": {"delta_softplus": ("int", [1]), "reverse": ("int", [0])},
          "CrossSelectiveScan": {"delta_softplus": ("int", [1])},
          "NeighborhoodAttention2D": {"kernel_size": ("ints", [7, 9]), "dilation": ("ints", [1, 1]), "scale": ("float", [0.25])}}
for name, attributes in fields.items():
    creator = registry.get_creator(name, "1", "segc")
    collection = trt.PluginFieldCollection(
        [trt.PluginField(key, np.array(values, kinds[kind][0]), kinds[kind][1]) for key, (kind, values) in attributes.items()])
    plugin = creator.create_plugin(name, collection, trt.TensorRTPhase.BUILD)
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    print(name, creator.plugin_namespace, plugin is not None, core is not None, flush=True)
"""


def test_a_real_registry_loads_the_library(library: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("tensorrt_rtx_bindings is not installed: pip install 'segc[rtx]'")
    done = subprocess.run([sys.executable, "-c", REGISTRY, str(library)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{name} segc True True" for name in SIGNATURES], done.stderr[-2000:]
