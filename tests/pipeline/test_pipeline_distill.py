"""Distillation as a training: on six rendered scenes, pruned students too, and the verb around it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import Tensor
from verbs import run_json

from segc.compress.distill.setup import Distillation
from segc.compress.prune import PruneOptions
from segc.compress.targets import Target
from segc.core.errors import UserError
from segc.export.exporter import export_network
from segc.models.checkpoint import read_checkpoint
from segc.models.network import Network, load_network
from segc.models.sparsity import is_two_of_four
from segc.pipeline.distill import distill
from segc.pipeline.prune import prune, tuning_config
from segc.pipeline.sparsity import sparsify
from segc.train import hooks
from segc.train.trainer import train

LOSSES = ("kd", "feature:neck.fpn_convs.1", "boundary")


@pytest.fixture(scope="module")
def half(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with half of its parameters."""
    output = tmp_path_factory.mktemp("half") / "half.safetensors"
    prune(network, Target("params", 0.5), output, PruneOptions(round_to=2))
    return output


def _state(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path).state


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def _distill(start: Path, teacher: Path, output: Path, *losses: str, iterations: int = 2) -> dict[str, Tensor]:
    distill(load_network(None, start), Distillation(teacher, losses=losses), output, start=start, iterations=iterations)
    return _state(output)


def test_a_pruned_student_comes_out_clean(half: Path, trained: Path, tmp_path: Path) -> None:
    before, after = _state(half), _distill(half, trained, tmp_path / "out.safetensors", *LOSSES)
    assert list(after) == list(before) and not _equal(after, before)
    found = load_network(None, tmp_path / "out.safetensors")
    assert found.cfg.to_dict() == load_network(None, half).cfg.to_dict()
    exported = export_network(None, tmp_path / "out.safetensors", tmp_path / "bundle", input_size=(64, 96), verify_images=1)
    assert exported is not None


def test_a_loss_without_weight_trains_as_no_teacher_does(half: Path, trained: Path, tmp_path: Path) -> None:
    """The same images in the same order, the same learning rates: what differs between the two is the teacher alone."""
    with_teacher = _distill(half, trained, tmp_path / "out.safetensors", "kd,weight=1e-30", "feature:neck.fpn_convs.1,weight=1e-30")
    alone = train(tuning_config(load_network(None, half).cfg, 2, half), work_dir=tmp_path / "alone")
    assert _equal(with_teacher, _state(alone.weights))


def test_an_interrupted_distillation_goes_on_with_its_adapters(
    half: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _distill(half, trained, tmp_path / "whole.safetensors", *LOSSES, iterations=3)
    real = hooks.ProgressHook.after_train_iter

    def stopped(self: Any, runner: Runner, *args: Any, **kwargs: Any) -> None:
        real(self, runner, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(hooks.ProgressHook, "after_train_iter", stopped)
        _distill(half, trained, tmp_path / "parts.safetensors", *LOSSES, iterations=3)
    assert not (tmp_path / "parts.safetensors").exists()
    assert _equal(_distill(half, trained, tmp_path / "parts.safetensors", *LOSSES, iterations=3), whole)


def test_a_finished_distillation_is_not_that_of_other_losses_or_weights(half: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    first = _distill(half, trained, output, "kd")
    assert _equal(_distill(half, trained, output, "kd"), first)
    with pytest.raises(UserError, match=r"holds a training of another config: training_wrapper\.losses"):
        _distill(half, trained, output, "dist")
    other = tmp_path / "other.safetensors"
    prune(load_network(None, half), Target("ratio", 0.3), other, PruneOptions(round_to=2, criterion="random"))
    with pytest.raises(UserError, match="holds a training of another config"):
        _distill(other, trained, output, "kd")


def test_a_cached_teacher_gives_the_same_student(half: Path, trained: Path, tmp_path: Path) -> None:
    """Without augmentation: each of the six scenes is stored once."""
    student = load_network(None, half)
    steps = student.cfg.train_dataloader.dataset.pipeline
    student.cfg.train_dataloader.dataset.pipeline = [steps[0], {"type": "Resize", "scale": (48, 32)}, steps[-1]]
    for name, folder in (("plain", None), ("cached", tmp_path / "cache")):
        distill(student, Distillation(trained, losses=("kd",), cache=folder), tmp_path / f"{name}.safetensors", start=half, iterations=4)
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 6
    plain, cached = (_state(tmp_path / f"{name}.safetensors") for name in ("plain", "cached"))
    torch.testing.assert_close(plain, cached, rtol=1e-3, atol=1e-4)


def test_pruning_learns_from_a_teacher(network: Network, trained: Path, tmp_path: Path) -> None:
    output, options = tmp_path / "taught.safetensors", PruneOptions(round_to=2)
    (training,) = prune(network, Target("params", 0.5), output, options, iterations=2, distillation=Distillation(trained)).trainings
    wrapper = load_network(None, training.weights).cfg.training_wrapper
    assert (wrapper.type, wrapper.teacher.weights) == ("Distilled", str(trained))
    assert load_network(None, output).cfg.get("training_wrapper") is None


def test_the_verb_distils_a_checkpoint_and_a_config_from_scratch(trained: Path, network: Network, half: Path, tmp_path: Path) -> None:
    code, told = run_json("distill", half, "--teacher", trained, "-o", tmp_path / "a.safetensors", "--iterations", 1, "--loss", "dist")
    assert code == 0 and told["data"]["losses"] == ["dist"] and told["data"]["iterations"] == 1
    network.cfg.dump(tmp_path / "config.py")
    words = ["--override", "train_cfg.max_iters=1", "--override", "train_cfg.val_interval=1"]
    code, told = run_json("distill", tmp_path / "config.py", "--teacher", trained, "-o", tmp_path / "b.safetensors", *words)
    assert code == 0 and list(_state(tmp_path / "b.safetensors")) == list(_state(trained))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--loss", "cwt"], "Did you mean 'cwd'?"),
        (["--loss", "cwd:decode_hed.conv_seg"], "Nearest: decode_head.conv_seg"),
        (["--cache", "cache"], "changes its images at random (RandomResize, RandomCrop, RandomFlip, PhotoMetricDistortion)"),
        (["--weights", "x.pth"], "is a checkpoint, and --weights x.pth names another one"),
        (["--teacher", "none.safetensors"], "weights none.safetensors do not exist"),
    ],
    ids=str,
)
def test_the_verb_tells_mistakes(half: Path, trained: Path, tmp_path: Path, words: list[str], told: str) -> None:
    code, result = run_json("distill", half, "--teacher", trained, "-o", tmp_path / "out.safetensors", *words)
    assert code == 2 and told in result["error"]


def test_iterations_of_a_schedule_are_refused(trained: Path, tmp_path: Path) -> None:
    code, result = run_json(
        "distill", "segc::quickstart/quickstart.py", "--teacher", trained, "-o", tmp_path / "x.safetensors", "--iterations", 5
    )
    assert code == 2 and "train_cfg.max_iters" in result["error"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--flops", 0.5, "--teacher", "t.safetensors"], "Add --finetune"),
        (["--flops", 0.5, "--finetune", 4, "--loss", "kd"], "Add --teacher"),
        (["--sparsity", "2:4", "--finetune", 4, "--teacher", "t.safetensors"], "segc distill sparse.safetensors"),
    ],
    ids=str,
)
def test_pruning_refuses_a_teacher_that_would_teach_nothing(trained: Path, tmp_path: Path, words: list[Any], told: str) -> None:
    code, result = run_json("prune", trained, "-o", tmp_path / "x.safetensors", *words)
    assert code == 2 and told in result["error"]


def test_a_sparse_student_stays_sparse(trained: Path, tmp_path: Path) -> None:
    plan = sparsify(load_network(None, trained), tmp_path / "sparse.safetensors").plan
    after = _distill(tmp_path / "sparse.safetensors", trained, tmp_path / "out.safetensors", "kd")
    assert plan.tensors and all(is_two_of_four(after[name]) for name in plan.tensors)
    assert not _equal(after, _state(tmp_path / "sparse.safetensors"))
