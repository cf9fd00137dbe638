"""The ONNX body of neighbourhood attention in three runtimes, against the definition in float64."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segc.core.errors import UserError
from segc.export.engine import rtx
from segc.ops import reference
from segc.ops.onnx_functions.library import add_functions
from tests.ops.onnx_cases import RUNTIMES, node_model, values_of

OP = "NeighborhoodAttention2D"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


@dataclass(frozen=True)
class Case:
    """One attention; the map is ``spare`` larger than the dilated window, so that borders of every kind occur."""

    kernel: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    spare: tuple[int, int] = (9, 20)
    batch: int = 1
    heads: int = 2
    depth: int = 5
    rpb: bool = True
    dtype: torch.dtype = torch.float32
    scale: float = 0.4
    seed: int = 0

    def tensors(self) -> list[Tensor | None]:
        random = torch.Generator().manual_seed(self.seed)
        height, width = (k * d + s for k, d, s in zip(self.kernel, self.dilation, self.spare, strict=True))
        q, k, v = (torch.randn(self.batch, height, width, self.heads, self.depth, generator=random).to(self.dtype) for _ in "qkv")
        rpb = torch.randn(self.heads, 2 * self.kernel[0] - 1, 2 * self.kernel[1] - 1, generator=random).to(self.dtype)
        return [q, k, v, rpb if self.rpb else None]

    @property
    def attributes(self) -> dict[str, Any]:
        return {"kernel_size": self.kernel, "dilation": self.dilation, "scale": self.scale}


def compare(case: Case, runtime: str = "ONNX Runtime", **how: Any) -> None:
    tensors = case.tensors()
    values = values_of(OP, tensors)
    found = RUNTIMES[runtime](node_model(OP, values, case.attributes, **how), values)[0]
    q, k, v, rpb = (None if tensor is None else tensor.double() for tensor in tensors)
    wanted = reference.neighborhood_attention_2d(q, k, v, case.kernel, case.dilation, case.scale, rpb)  # type: ignore[arg-type]
    assert found.dtype == values["q"].dtype and found.shape == wanted.shape
    assert (torch.from_numpy(found).double() - wanted).abs().max() <= TOLERANCE[case.dtype]


kernels = st.sampled_from([3, 5, 7, 11])
one_to_three = st.integers(1, 3)
gaps = st.integers(0, 20)


@settings(max_examples=20, deadline=None)
@given(
    case=st.builds(
        Case,
        kernel=st.tuples(kernels, kernels),
        dilation=st.tuples(one_to_three, one_to_three),
        spare=st.tuples(gaps, gaps),
        batch=st.integers(1, 2),
        heads=one_to_three,
        depth=st.integers(1, 9),
        rpb=st.booleans(),
        dtype=st.sampled_from(list(TOLERANCE)),
        seed=st.integers(0, 99),
    ),
    dynamic=st.booleans(),
    opset=st.sampled_from([17, 18, 20]),
)
def test_onnx_runtime_gives_the_definition(case: Case, dynamic: bool, opset: int) -> None:
    compare(case, dynamic=dynamic, opset=opset)


@pytest.mark.parametrize("runtime", ["onnx.reference", "OpenVINO"])
@pytest.mark.parametrize(
    "case", [Case((3, 5), (2, 1), (4, 3)), Case((7, 3), (1, 2), (0, 6), rpb=False), Case((5, 5), (1, 1), (11, 3), depth=8)]
)
def test_other_runtimes_give_the_definition(case: Case, runtime: str) -> None:
    compare(case, runtime)


def test_the_largest_window() -> None:
    compare(Case((63, 3), spare=(1, 20), heads=1, depth=2))


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_one_body_serves_nodes_with_other_windows(runtime: str) -> None:
    """Also where only one of them has a position bias."""
    q, k, v, _ = Case((3, 3), spare=(6, 7)).tensors()
    assert q is not None and k is not None and v is not None
    values = values_of(OP, [q, k, v, torch.randn(2, 9, 5)])
    own = [{"kernel_size": (3, 5), "dilation": (3, 2), "scale": 0.3}, {"kernel_size": (5, 3), "dilation": (1, 1), "scale": 0.7}]
    model = node_model(OP, values, own)  # type: ignore[arg-type]
    del model.graph.node[0].input[3]
    found = RUNTIMES[runtime](add_functions(model), values)
    for mine, node, bias in zip(found, own, (None, torch.from_numpy(values["rpb"]).double()), strict=True):
        wanted = reference.neighborhood_attention_2d(
            q.double(), k.double(), v.double(), node["kernel_size"], node["dilation"], node["scale"], bias  # type: ignore[arg-type]
        )  # fmt: skip
        assert (torch.from_numpy(mine).double() - wanted).abs().max() <= 1e-5
    assert len(model.functions) == 1 and list(model.graph.initializer[0].dims) == [2, 5, 9]


def test_a_bias_of_unknown_shape_is_asked_for() -> None:
    values = values_of(OP, Case((3, 3)).tensors())
    model = node_model(OP, values, [Case((3, 3)).attributes] * 2, dynamic=True)  # type: ignore[arg-type]
    del model.graph.node[0].input[3]
    with pytest.raises(UserError, match="give it an rpb of zeros"):
        add_functions(model)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [(128, 1.0), (256, 2.0)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_memory_stays_small(size: int, most: float, dynamic: bool, tmp_path: Path) -> None:
    """SegMAN-T's first stage (11 x 11 windows, 32 channels) at images of 512 and 1024: GiB of a whole process with ONNX Runtime."""
    shape = [1, size, size, 1, 32]
    values = {name: np.zeros(shape, np.float32) for name in "qkv"} | {"rpb": np.zeros((1, 21, 21), np.float32)}
    path = tmp_path / "model.onnx"
    window = {"kernel_size": (11, 11), "dilation": (1, 1), "scale": 1.0}
    path.write_bytes(node_model(OP, values, window, dynamic=dynamic).SerializeToString())
    code = f"""
import numpy, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r})
session.run(None, {{item.name: numpy.zeros({shape} if item.name != "rpb" else [1, 21, 21], "float32") for item in session.get_inputs()}})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 2**20 < most


@pytest.mark.skipif(not rtx.installed(), reason="TensorRT-RTX is not installed: pip install 'segc[rtx]'")
@pytest.mark.parametrize("target", ["8.6", *(pytest.param(name, marks=pytest.mark.slow) for name in ("8.9", "12.0"))])
def test_tensorrt_builds_the_body(target: str) -> None:
    case = Case((7, 5), (1, 2), depth=16, dtype=torch.float16)
    model = node_model(OP, values_of(OP, case.tensors()), case.attributes, opset=20)
    assert rtx.build(model, target).layers > len(model.functions[0].node) / 2
