"""What a training leaves behind, how it goes on where it was stopped, and what it refuses. Real trainings on six rendered scenes."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from typer.testing import CliRunner

from segc.cli.main import app
from segc.core.errors import UserError
from segc.core.rows import Row
from segc.models.checkpoint import read_checkpoint, read_content
from segc.models.network import load_config, load_network
from segc.train import hooks
from segc.train.checkpoints import last_checkpoint
from segc.train.trainer import TrainResult, forget, train

QUICKSTART = "segc::quickstart/quickstart.py"
Tiny = dict[str, Any]


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(QUICKSTART, tiny, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``stop_after(n)``: the ^C arrives during iteration n."""

    def arrange(count: int, number: int = signal.SIGINT) -> None:
        real = hooks.ProgressHook.after_train_iter

        def interrupted(self: Any, runner: Runner, *args: Any, **kwargs: Any) -> None:
            real(self, runner, *args, **kwargs)
            if runner.iter + 1 == count:
                signal.raise_signal(number)

        monkeypatch.setattr(hooks.ProgressHook, "after_train_iter", interrupted)

    return arrange


def _best(work: Path) -> Path:
    (path,) = work.glob("best_mIoU_iter_*.pth")
    return path


def _same_weights(one: Path, other: Path) -> bool:
    ours, theirs = read_checkpoint(one).state, read_checkpoint(other).state
    return sorted(ours) == sorted(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_best_weights_are_one_safe_file_equal_to_the_best_checkpoint(trained: TrainResult, tiny: Tiny) -> None:
    from mmseg.apis import init_model

    ours = load_network(None, trained.weights)
    theirs = init_model(load_config(QUICKSTART, tiny), None, device="cpu")
    theirs.load_state_dict(torch.load(_best(trained.weights.parent), weights_only=False)["state_dict"])
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.model(image), theirs.eval()(image))
    assert (len(ours.classes), ours.classes[0]) == (11, "sky")


def test_the_told_miou_is_that_of_the_file(trained: TrainResult, miou_of: Callable[[Path], float]) -> None:
    assert trained.miou == pytest.approx(miou_of(trained.weights), abs=0.006)  # mmseg rounds to 2 decimals


def test_the_result_is_stored_as_rows(trained: TrainResult) -> None:
    stored = json.loads((trained.weights.parent / "train.json").read_text())
    miou, seconds = [Row(**row) for row in stored["rows"]]
    assert (miou.metric, miou.unit, miou.value) == ("mIoU", "%", trained.miou)
    assert miou.conditions["iterations"] == 4 and miou.conditions["resumed_from"] == 0
    assert (seconds.unit, seconds.value) == ("s", trained.seconds)
    assert stored["environment"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


def test_tensorboard_scalars_and_the_log_lie_in_the_work_dir(trained: TrainResult) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = trained.weights.parent.rglob("events.out.tfevents*")
    found = EventAccumulator(str(events))
    found.Reload()
    assert [event.step for event in found.Scalars("mIoU")] == [2, 4]
    (log,) = trained.weights.parent.rglob("*.log")
    assert "mIoU" in log.read_text()


def test_the_last_two_checkpoints_are_kept(trained: TrainResult) -> None:
    work = trained.weights.parent
    assert sorted(path.name for path in work.glob("iter_*.pth")) == ["iter_3.pth", "iter_4.pth"]
    assert last_checkpoint(work) == work / "iter_4.pth"


def test_a_finished_training_is_not_repeated(trained: TrainResult, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "train", lambda self: pytest.fail("trained again"))
    assert train(QUICKSTART, tiny, trained.weights.parent) == trained


def test_a_finished_training_can_be_prolonged(tiny: Tiny, tmp_path: Path) -> None:
    train(QUICKSTART, {**tiny, "train_cfg.max_iters": 2}, tmp_path)
    result = train(QUICKSTART, {**tiny, "train_cfg.max_iters": 3}, tmp_path)
    assert (result.iterations, result.resumed_from) == (3, 2)


@pytest.mark.parametrize(("stopped", "number"), [(2, signal.SIGINT), (3, signal.SIGTERM)], ids=["before a validation", "between"])
def test_a_stopped_training_ends_with_the_weights_of_one_never_stopped(
    trained: TrainResult, tiny: Tiny, tmp_path: Path, stop_after: Callable[..., None], stopped: int, number: int
) -> None:
    stop_after(stopped, number)
    with pytest.raises(KeyboardInterrupt):
        train(QUICKSTART, tiny, tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / f"iter_{stopped}.pth"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = train(QUICKSTART, tiny, tmp_path)
    assert (result.resumed_from, result.iterations, result.miou) == (stopped, 4, trained.miou)
    straight = trained.weights.parent
    assert _same_weights(tmp_path / "iter_4.pth", straight / "iter_4.pth")
    assert _same_weights(result.weights, trained.weights)
    rates = [read_content(work / "iter_4.pth")["optimizer"]["param_groups"][0]["lr"] for work in (tmp_path, straight)]
    assert rates[0] == rates[1]


def test_other_data_order_gives_other_weights(trained: TrainResult, tiny: Tiny, tmp_path: Path) -> None:
    """What would make the test above prove nothing: weights that do not depend on the random state."""
    train(QUICKSTART, tiny, tmp_path, seed=1)
    assert not _same_weights(tmp_path / "iter_4.pth", trained.weights.parent / "iter_4.pth")


def test_a_best_checkpoint_lost_by_a_kill_is_found_anew(tiny: Tiny, tmp_path: Path, stop_after: Callable[..., None]) -> None:
    stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        train(QUICKSTART, tiny, tmp_path)
    _best(tmp_path).unlink()
    result = train(QUICKSTART, tiny, tmp_path)
    assert _best(tmp_path).name == "best_mIoU_iter_4.pth"
    assert _same_weights(result.weights, _best(tmp_path))


def test_a_moved_work_dir_still_resumes(tiny: Tiny, tmp_path: Path, stop_after: Callable[..., None]) -> None:
    stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        train(QUICKSTART, tiny, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert train(QUICKSTART, tiny, tmp_path / "b").resumed_from == 3
    assert not (tmp_path / "a").exists()


def test_the_checkpoint_of_another_training_is_refused(trained: TrainResult, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"another config: optim_wrapper\.optimizer\.lr was 0\.003 and is now 0\.1\. Add --fresh"):
        train(QUICKSTART, {**tiny, "optim_wrapper.optimizer.lr": 0.1}, trained.weights.parent)
    with pytest.raises(UserError, match=r"randomness\.seed was 0 and is now 7"):
        train(QUICKSTART, tiny, trained.weights.parent, seed=7)


def test_how_fast_data_is_loaded_does_not_matter(trained: TrainResult, tiny: Tiny) -> None:
    assert train(QUICKSTART, {**tiny, "train_dataloader.num_workers": 1}, trained.weights.parent) == trained


def test_fresh_removes_what_training_wrote_and_nothing_else(tmp_path: Path) -> None:
    own = ["iter_9.pth", "best_mIoU_iter_9.pth", "last_checkpoint", "best.safetensors", "train.json", "20260101_101010/x.log"]
    others = ["pretrained.pth", "notes.txt", "2024_photos/a.jpg", "20260101/b.jpg"]
    for name in [*own, *others]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    forget(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)


def test_a_loss_that_is_no_number_stops_and_leaves_the_good_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    explodes = [{"type": "MultiStepLR", "milestones": [2], "gamma": 1e35, "by_epoch": False}]
    with pytest.raises(UserError, match=r"the loss became (nan|inf) at iteration 4\. Lower the learning rate"):
        train(QUICKSTART, {**tiny, "param_scheduler": explodes}, tmp_path)
    assert _best(tmp_path).name == "best_mIoU_iter_2.pth"
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(_best(tmp_path)).state.values())
    assert not (tmp_path / "best.safetensors").exists()


def test_a_full_disk_is_told_and_the_checkpoint_before_is_whole(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmengine.runner.runner as module

    real, saved = module.save_checkpoint, []

    def full(checkpoint: Any, path: str, **kwargs: Any) -> None:
        saved.append(path)
        if len(saved) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(checkpoint, path, **kwargs)

    monkeypatch.setattr(module, "save_checkpoint", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(QUICKSTART, tiny, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    last = last_checkpoint(tmp_path)
    assert last is not None and read_checkpoint(last).state
    monkeypatch.setattr(module, "save_checkpoint", real)
    assert train(QUICKSTART, tiny, tmp_path).resumed_from > 0


def test_a_work_dir_that_cannot_be_written_is_told_at_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/w: a parent of the path is a file"):
        train(QUICKSTART, tiny, tmp_path / "file" / "w")

    def refused(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("segc.train.trainer.tempfile.TemporaryFile", refused)
    with pytest.raises(UserError, match="read-only"):
        train(QUICKSTART, tiny, tmp_path / "w")


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["resumed", "load_from"])
def test_a_checkpoint_with_code_is_never_run(tiny: Tiny, tmp_path: Path, place: str) -> None:
    evil = tmp_path / ("iter_3.pth" if place == "resumed" else "start.pth")
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": {"x": _Malicious(tmp_path / "owned")}}, evil)
    with pytest.raises(UserError, match=f"{evil.name} is not loaded"):
        train(QUICKSTART, {**tiny, **({"load_from": str(evil)} if place == "load_from" else {})}, tmp_path)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(evil, weights_only=True)


def test_a_training_may_start_from_weights(trained: TrainResult, tiny: Tiny, tmp_path: Path) -> None:
    start = {"load_from": str(trained.weights), "optim_wrapper.optimizer.lr": 0.0, "param_scheduler": [], "train_cfg.max_iters": 1}
    result = train(QUICKSTART, {**tiny, **start}, tmp_path)
    found, given = read_checkpoint(result.weights).state, read_checkpoint(trained.weights).state
    assert all(torch.equal(found[name], given[name]) for name in given if "running" not in name and "tracked" not in name)


def test_a_training_does_not_start_from_a_part_of_a_backbone(trained: TrainResult, tiny: Tiny, tmp_path: Path) -> None:
    """Of another variant a few tensors fit; a head of other classes does not matter."""
    state = read_checkpoint(trained.weights).state
    name = next(name for name in state if name.startswith("backbone.") and name.endswith("weight"))
    torch.save({**state, name: torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"other\.pth holds .*: {len(state) - 1} of {len(state)} tensors fit, and nothing was loaded"):
        train(QUICKSTART, {**tiny, "load_from": str(tmp_path / "other.pth")}, tmp_path / "run")
    torch.save({name: tensor for name, tensor in state.items() if name.startswith("backbone.")}, tmp_path / "start.pth")
    train(QUICKSTART, {**tiny, "load_from": str(tmp_path / "start.pth"), "train_cfg.max_iters": 1}, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"val_dataloader": None}, "no val_dataloader"),
        ({"val_evaluator": None}, "no val_evaluator"),
        ({"optim_wrapper.optimizer.type": "AdamWW"}, "unknown optimizer 'AdamWW'. Did you mean 'AdamW'"),
        ({"train_dataloader.dataset.type": "SegcDatset"}, "SegcDatset is not in"),
        ({"train_dataloader.dataset.pipeline.2.crop_size": [32, 48]}, "expected crop_size"),
        ({"train_dataloader.dataset.root": "/nowhere"}, "/nowhere"),
        ({"val_evaluator.iou_metrics": ["mDice"]}, "gave no mIoU"),
        ({"model.decode_head.num_clases": 3}, "Did you mean 'num_classes'"),
        ({"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "/nowhere.pth"}}, "pretrained weights cannot be read"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_trained_is_told(tiny: Tiny, tmp_path: Path, overrides: Tiny, told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(QUICKSTART, {**tiny, **overrides}, tmp_path)


@pytest.mark.parametrize(
    ("launcher", "environment", "told"),
    [("pytroch", {}, "Did you mean 'pytorch'"), ("pytorch", {}, "torchrun did not start"), ("none", {"WORLD_SIZE": "2"}, "Add --launcher")],
)
def test_processes_and_launcher_must_agree(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, environment: dict[str, str], told: str
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=told):
        train(QUICKSTART, tiny, tmp_path, launcher=launcher)


def test_json_is_one_object_also_for_a_loss_that_explodes(typed: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*typed, "-o", "optim_wrapper.optimizer.lr=1e30", "--work-dir", str(tmp_path), "--json"])
    assert done.exit_code == 2
    assert "the loss became" in json.loads(done.stdout)["error"]
