"""The training module around a student, and its teacher: what it computes, what it keeps, whom it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from segc.compress.distill import losses
from segc.compress.distill.points import Point
from segc.compress.distill.setup import Distillation
from segc.compress.distill.teacher import Teacher, check_images_repeat, renormalised
from segc.compress.distill.terms import Term
from segc.compress.distill.wrapper import Distilled
from segc.core.errors import UserError
from segc.models.network import Network, load_network, save_network

QUICKSTART, OTHER = "segc::quickstart/quickstart.py", "segc::segformer/segformer_b0_camvid.py"
SMALL = {"model.data_preprocessor.size": (64, 64)}
STUDENT = {
    **SMALL,
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 4},
    "model.decode_head.in_channels": [16] * 4,
}
# Another normalisation, and images as they come.
OTHER_COLOURS = {
    "model.data_preprocessor.mean": [10.0, 120.0, 90.0],
    "model.data_preprocessor.std": [50.0, 60.0, 70.0],
    "model.data_preprocessor.bgr_to_rgb": False,
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints: of the same kind but wider and with other colours, of another architecture, and with classes of other names."""
    folder = tmp_path_factory.mktemp("teachers")
    wide = load_network(QUICKSTART, None, overrides={**SMALL, **OTHER_COLOURS}, random_weights=True, seed=1)
    other = load_network(OTHER, None, overrides=SMALL, random_weights=True, seed=2)
    strange = Network(wide.model, wide.cfg, ["void", *wide.classes[:-1]], wide.palette)
    found = {"wide": wide, "other": other, "strange": strange}
    for name, network in found.items():
        save_network(network, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in found}


@pytest.fixture
def student() -> Network:
    return load_network(QUICKSTART, None, overrides=STUDENT, random_weights=True)


def _distilled(student: Network, teacher: Path, *texts: str) -> Distilled:
    terms = [Term.parse(text).as_dict() for text in texts]
    return Distilled(student.model, student.classes, {"weights": str(teacher), "config": None, "sha256": ""}, terms)


def _batch() -> dict[str, Any]:
    """Two grey-level images as a data loader gives them, with labels."""
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 64), generator=random, dtype=torch.uint8) for _ in range(2)]
    labels = [torch.randint(0, 11, (1, 64, 64), generator=random) for _ in range(2)]
    return {"inputs": images, "data_samples": [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]}


def _losses(model: Distilled) -> dict[str, Tensor]:
    data = model.data_preprocessor(_batch(), True)
    found: dict[str, Tensor] = model(data["inputs"], data["data_samples"], "loss")
    return found


def _logits(network: Any) -> Tensor:
    data = network.data_preprocessor(_batch(), True)
    with torch.no_grad():
        logits: Tensor = network(data["inputs"], mode="tensor")
    return logits


def test_the_losses_are_the_students_own_and_those_against_each_teachers_answer(student: Network, teachers: dict[str, Path]) -> None:
    """The teacher normalises the images its own way: its answer to the raw images is what counts."""
    found = _losses(_distilled(student, teachers["wide"], "kd,temperature=2", "boundary:decode_head.conv_seg,weight=0.5"))
    data = student.model.data_preprocessor(_batch(), True)
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
    own = student.model(data["inputs"], data["data_samples"], "loss")
    ours, theirs = _logits(student.model), _logits(load_network(None, teachers["wide"]).model)
    torch.testing.assert_close(found.pop("distill0.loss_kd"), losses.kd(ours, theirs, temperature=2))
    torch.testing.assert_close(found.pop("distill1.loss_boundary"), 0.5 * losses.boundary(ours, theirs, labels))
    torch.testing.assert_close(found, dict(own))


def test_training_moves_student_and_adapters_and_nothing_else(student: Network, teachers: dict[str, Path]) -> None:
    texts = ("kd", "feature:neck.fpn_convs.0", "affinity:backbone[3]", "dist", "cwd:neck.lateral_convs.1=backbone[1]")
    model = _distilled(student, teachers["wide"], *texts).train()
    assert [type(adapter).__name__ for adapter in model.adapters] == ["Identity", "Conv2d", "Identity", "Identity", "Conv2d"]
    owned = {id(parameter) for part in (student.model, model.adapters) for parameter in part.parameters()}
    assert {id(parameter) for parameter in model.parameters()} == owned
    teacher: Any = model._teacher._model
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    sum(value for name, value in _losses(model).items() if "loss" in name).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items()), "its batch norms moved"


def test_the_state_is_the_students(student: Network, teachers: dict[str, Path]) -> None:
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    model = _distilled(student, teachers["wide"], "feature:neck.fpn_convs.0")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), "looking at the points changed it"


def test_another_architecture_teaches_at_its_own_size(student: Network, teachers: dict[str, Path]) -> None:
    """SegFormer's logits are those of a fourth of the image, as the student's; its last stage is half as large as FPN's finest."""
    found = _losses(_distilled(student, teachers["other"], "kd", "feature:neck.fpn_convs.0=backbone[2]"))
    theirs = _logits(load_network(None, teachers["other"]).model)
    torch.testing.assert_close(found["distill0.loss_kd"], losses.kd(_logits(student.model), theirs))
    assert found["distill1.loss_feature"].isfinite()


def test_random_numbers_are_those_of_a_training_without_a_teacher(student: Network, teachers: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    _distilled(student, teachers["wide"], "feature:neck.fpn_convs.0")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("teacher", "loss", "told"),
    [
        ("strange", "kd", "compares scores of different classes: sky, "),
        ("strange", "cwd:decode_head.conv_seg", "compares scores of different classes"),
        ("wide", "kd:neck.fpn_convs.0", "compares 16 channels with 48. Use cwd or feature"),
        ("wide", "kd:decode_hed.conv_seg", "the student has no module 'decode_hed.conv_seg'. Nearest: decode_head.conv_seg"),
        ("other", "cwd:neck.fpn_convs.0", "the teacher has no module 'neck.fpn_convs.0'. Nearest: "),
        ("wide", "feature:backbone", "backbone gives 4 items. Name one of them: backbone[0] to backbone[3]."),
    ],
)
def test_what_does_not_fit_is_refused(student: Network, teachers: dict[str, Path], teacher: str, loss: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        _distilled(student, teachers[teacher], loss)
    assert told in str(caught.value)


def test_features_of_a_teacher_with_other_classes_are_fine(student: Network, teachers: dict[str, Path]) -> None:
    assert _losses(_distilled(student, teachers["strange"], "affinity", "feature:backbone[2]"))["distill1.loss_feature"] > 0


@pytest.mark.parametrize(("mean", "bgr_to_rgb"), [(None, True), ([1.0, 2.0, 3.0], False), ([1.0, 2.0, 3.0], True)])
def test_images_are_normalised_again_as_from_the_file(mean: list[float] | None, bgr_to_rgb: bool) -> None:
    from mmseg.models import SegDataPreProcessor

    own = SegDataPreProcessor(mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], bgr_to_rgb=True, size=(64, 64))
    wanted = SegDataPreProcessor(mean=mean, std=mean and [2.0, 3.0, 4.0], bgr_to_rgb=bgr_to_rgb, size=(64, 64))
    found = renormalised(own(_batch(), True)["inputs"], own, wanted)
    torch.testing.assert_close(found, wanted(_batch(), True)["inputs"], rtol=1e-4, atol=1e-4)


def test_a_cache_answers_as_the_teacher_does_and_asks_it_once(student: Network, teachers: dict[str, Path], tmp_path: Path) -> None:
    model = load_network(None, teachers["other"]).model
    points = [Point("backbone", 3), Point("decode_head")]
    plain, cached = (Teacher(model, points, student.model.data_preprocessor, folder) for folder in (None, tmp_path))
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first = cached.outputs(images[:2])
    torch.testing.assert_close(first, plain.outputs(images[:2]))
    assert len(list(tmp_path.iterdir())) == 2
    asked: list[int] = []
    model.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    again = cached.outputs(images.flip(0))
    assert asked == [1] and len(list(tmp_path.iterdir())) == 3
    assert all(torch.equal(late[1:].flip(0), early) for late, early in zip(again, first, strict=True))


def _training(*steps: str) -> Config:
    load = {"type": "CachedInMemory", "transforms": [{"type": "LoadImageFromFile"}, {"type": "LoadTrainIds"}]}
    pipeline = [load, *({"type": step} for step in steps), {"type": "PackSegInputs"}]
    return Config({"train_dataloader": {"dataset": {"pipeline": pipeline}}})


def test_a_cache_of_images_that_never_come_again_is_refused() -> None:
    check_images_repeat(_training("Resize"))
    with pytest.raises(UserError, match=r"changes its images at random \(RandomFlip, PhotoMetricDistortion\)"):
        check_images_repeat(_training("Resize", "RandomFlip", "PhotoMetricDistortion"))


def test_a_missing_teacher_is_told(student: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights .*none\.pth do not exist"):
        Distillation(tmp_path / "none.pth").added_to(student.cfg, student.classes)
