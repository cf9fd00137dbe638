"""The search on a small network with a clock of our own: what it finds, writes, answers, and that its recipe and bundle are the winner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from clocks import Clock, by_int8, int8_convs
from smallnet import small_model
from typer.testing import CliRunner

from segc.cli.main import app
from segc.compress.cast import PAIR
from segc.compress.placement import place
from segc.core.errors import UserError
from segc.pipeline.attempts import Attempts, without_leftovers
from segc.pipeline.executor import InProcess
from segc.pipeline.prepare import Prepared
from segc.pipeline.reasons import executed_nodes, float_islands, reasons
from segc.pipeline.recipe import Recipe, load_recipe
from segc.pipeline.search import Found, search
from segc.pipeline.search_output import write_search
from segc.pipeline.stopwatch import Stopwatch
from segc.runtime.bundle import graph_path, read_manifest
from segc.runtime.runner import open_runner


def found_in(bundle: Path, work: Path, max_drop: float, backend: str = "onnxruntime") -> tuple[Found, Attempts]:
    attempts = Attempts(bundle, work, backend, InProcess(), limit=None, runs=2, threads=1)
    return search(attempts, max_drop), attempts


def test_int8_where_it_is_faster_and_good_enough(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    found, _ = found_in(labelled_bundle, tmp_path, 50.0)
    assert found.winner.name == "all int8" and found.winner.ms == pytest.approx(4.0)
    assert found.nearest is None and not found.why and found.float_ms == pytest.approx(10.0)


def test_a_machine_that_slows_down_changes_no_ratio(labelled_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slower = iter(range(1, 100))

    def measure(self: Stopwatch, graphs: Sequence[Path]) -> list[float]:
        factor = next(slower)
        return [factor * (10.0 - 2.0 * int8_convs(onnx.load(path))) for path in graphs]

    monkeypatch.setattr(Stopwatch, "_round", measure)
    found, _ = found_in(labelled_bundle, tmp_path, 50.0)
    assert {each.name: each.ms / found.float_ms for each in found.attempts} == pytest.approx({"all int8": 0.4, "fp32": 1.0})


def test_blocks_go_back_to_float_until_the_bound_fits(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    whole = found_in(labelled_bundle, tmp_path, 50.0)[0].winner
    found, attempts = found_in(labelled_bundle, tmp_path, whole.upper - 0.01)
    assert found.winner.upper < whole.upper and found.winner.ms > whole.ms
    if found.winner.int8:
        assert 0 < list(found.winner.precisions.values()).count("fp32") < len(attempts.blocks)
    assert {each.name for each in found.attempts} >= {"all int8", "fp32"}


def test_the_winner_is_written_and_its_recipe_reads_back(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(lambda model: 10.0 - 2 * int8_convs(model) + 3 * any(node.name == "stem" and is_int8(model, node) for node in model.graph.node))
    found, attempts = found_in(labelled_bundle, tmp_path, 50.0)
    assert found.winner.precisions == {"stem": "fp32"}, "a block that is slower in int8 is left in float"
    recipe = Recipe.model_validate({"name": "small", "config": "c.py", "train": {"weights": "w.pth"}, "calibrate": {"count": 3}})
    told = write_search(found, Prepared(labelled_bundle, recipe), tmp_path)
    read = load_recipe(tmp_path / "recipe.yaml")
    assert read.quantize.precisions == {"stem": "fp32"} and read.quantize.enabled and read.calibrate.count == 3
    assert read.validation.max_drop == 50.0 and read.benchmark.backends == ["onnxruntime"] and str(read.train.weights) == "w.pth"
    best = tmp_path / "best"
    manifest = read_manifest(best)
    assert graph_path(best, manifest, "int8").read_bytes() == attempts.graph({"stem": "fp32"}).read_bytes()
    assert manifest.preferred == {"precision": "int8", "backend": "onnxruntime"} and open_runner(str(best)).precision == "int8"
    stored = json.loads((tmp_path / "search.onnxruntime.json").read_text())
    assert stored["winner"]["precisions"] == {"stem": "fp32"} and len(stored["rows"]) == 2 * len(stored["attempts"])
    assert Path(told["chart"]).read_text().count("<circle") == len(stored["attempts"])


def is_int8(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return any(node.input[1] in other.output for other in model.graph.node if other.op_type == "DequantizeLinear")


def test_float_is_kept_where_int8_is_slower(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, -1.0))
    found, _ = found_in(labelled_bundle, tmp_path, 50.0)
    assert found.winner.name == "fp32" and found.nearest is None and len(found.attempts) == 2
    assert any("Q/DQ or conversion nodes are left" in reason for reason in found.why)
    assert found.why[-1].startswith("fp16 is not faster than fp32 on onnxruntime: 10.00 ms")
    told = write_search(found, Prepared(labelled_bundle, Recipe(name="small", config="c.py")), tmp_path)
    assert not load_recipe(told["recipe"]).quantize.enabled
    assert list(read_manifest(tmp_path / "best").graphs) == ["fp32"]


def test_a_budget_that_no_int8_keeps(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    found, _ = found_in(labelled_bundle, tmp_path, 0.0)
    assert found.nearest is not None and found.nearest.int8 and found.nearest.upper > 0
    assert found.winner.name == "fp32" and found.nearest.upper == min(each.upper for each in found.attempts if each.int8)


def test_fp16_where_the_backend_is_faster_with_it(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    bundle = with_opset(labelled_bundle, tmp_path / "bundle", 20)

    def ms(model: onnx.ModelProto) -> float:
        half = sum(node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16 for node in model.graph.node)
        return 10.0 - 2 * int8_convs(model) - 3 * (half > 0)

    clock(ms)
    found, attempts = found_in(bundle, tmp_path / "work", 50.0)
    assert set(found.winner.precisions.values()) == {"int8-fp16"} and found.winner.ms == pytest.approx(1.0)
    assert found.float_ms == pytest.approx(7.0) and "fp16 is faster" in found.result["fp16"]
    types = {node.op_type for node in onnx.load(attempts.graph(found.winner.precisions)).graph.node}
    assert {"Cast", *PAIR} <= types


def with_opset(source: Path, bundle: Path, opset: int) -> Path:
    from segc.calib.calibrate import calibrate
    from segc.core.files import sha256_file
    from segc.runtime.bundle import write_manifest

    shutil.copytree(source, bundle)
    model = onnx.load(bundle / "model.onnx")
    model.opset_import[0].version = opset
    onnx.save(model, bundle / "model.onnx")
    manifest = read_manifest(bundle)
    graph = manifest.graphs["fp32"].model_copy(update={"sha256": sha256_file(bundle / "model.onnx"), "opset": opset})
    write_manifest(bundle, manifest.model_copy(update={"graphs": {"fp32": graph}}))
    calibrate(bundle, sorted(Path(manifest.provenance["data"]["root"]).glob("images/val/*")), count=3, threads=1)
    return bundle


@pytest.mark.parametrize("budget", [-0.1, float("nan"), float("inf")])
def test_a_budget_that_is_none(labelled_bundle: Path, tmp_path: Path, budget: float) -> None:
    with pytest.raises(UserError, match="expected points of mIoU, 0 or more"):
        found_in(labelled_bundle, tmp_path, budget)


def test_reasons_are_counted(labelled_bundle: Path, tmp_path: Path) -> None:
    model = small_model()
    assert float_islands(model, place(model).quantized) == 0, "the upsampled branch joins what int8 does not reach again"
    attempts = Attempts(labelled_bundle, tmp_path, "onnxruntime", InProcess(), limit=None, runs=2, threads=1)
    with without_leftovers(tmp_path, InProcess()):
        told = reasons(model, attempts.graph({}), "onnxruntime")
        executed = executed_nodes(attempts.graph({}), "onnxruntime")
        assert executed["QLinearConv"] >= 1 and executed_nodes(attempts.graph({}), "openvino")["Convolution"] == 5
    left = executed["QuantizeLinear"] + executed["DequantizeLinear"]
    assert told[0].startswith(f"{left} Q/DQ") and any(reason.startswith("1 resizes run in float") for reason in told)


def test_a_backend_that_does_not_tell_what_it_runs_leaves_the_reasons_of_the_graph(labelled_bundle: Path, tmp_path: Path) -> None:
    attempts = Attempts(labelled_bundle, tmp_path, "onnxruntime", InProcess(), limit=None, runs=2, threads=1)
    with without_leftovers(tmp_path, InProcess()):
        assert reasons(small_model(), attempts.graph({}), "onnxruntime_cuda") == ["1 resizes run in float"]


def test_float_islands() -> None:
    """conv -> Softmax -> conv is one, and a second one beside it counts when it is not connected with the first."""
    model = small_model()
    nodes = list(model.graph.node)
    softmax = [onnx.helper.make_node("Softmax", [name], [f"soft_{name}"], f"soft_{name}") for name in ("stem", "residual")]
    for node in nodes:
        if node.name in ("inner", "down"):
            node.input[0] = f"soft_{node.input[0]}"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:5], softmax[0], *nodes[5:7], softmax[1], *nodes[7:]])
    assert float_islands(model, place(model).quantized) == 2


def segc(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["search", *words, "--runs", "2", "--threads", "1", "--no-ray"], env={"COLUMNS": "240"})
    return done.exit_code, done.output


def test_the_verb(labelled_bundle: Path, tmp_path: Path, clock: Callable[[Clock], None]) -> None:
    clock(by_int8(10.0, 2.0))
    words = [str(labelled_bundle), "--work-dir", str(tmp_path / "work")]
    code, told = segc(*words, "--max-drop", "50")
    assert code == 0 and "PASSED all int8" in told and "2.50x as fast as float" in told and "the bundle has no recipe" in told
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names == [".lock", "best", "search.onnxruntime.json", "search.onnxruntime.svg", "trials"]
    code, told = segc(*words, "--max-drop", "0")
    assert code == 1 and "FAILED no int8 assignment surely loses at most 0 points; the nearest" in told
    code, told = segc(*words, "--max-drop", "-1")
    assert code == 2 and "--max-drop is -1" in told
