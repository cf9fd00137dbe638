"""The loss of mask classification against the numbers of PEM's own criterion, and the class scores against their definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segc.models.mask_classification import MaskClassificationLoss, segments, semantic_scores

CLASSES, IGNORED = 7, 255
# Weighted losses of the published criterion (weights 2, 5 and 5, 200 points), which draws its points in the same order, on ``_case``.
OFFICIAL = {
    "loss_cls": 2 * 1.6569236516952515,
    "loss_mask": 5 * 0.7306228280067444,
    "loss_dice": 5 * 0.7862978577613831,
    "d0.loss_cls": 2 * 1.4717518091201782,
    "d0.loss_mask": 5 * 0.7420880794525146,
    "d0.loss_dice": 5 * 0.8006410598754883,
}


def _case() -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Two predictions of 20 queries for two images of 64x96, and labels of blocks, some of them ignored."""
    generator = torch.Generator().manual_seed(11)
    shapes = ((2, 20, CLASSES + 1), (2, 20, 16, 24))
    predictions = [(torch.randn(shapes[0], generator=generator), 2 * torch.randn(shapes[1], generator=generator)) for _ in range(2)]
    labels = torch.randint(0, CLASSES, (2, 8, 12), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0, :16] = IGNORED
    labels[1][labels[1] > 2] = IGNORED
    return predictions, labels


def test_losses_equal_the_published_criterion() -> None:
    predictions, labels = _case()
    torch.manual_seed(5)
    found = MaskClassificationLoss(CLASSES, num_points=200)(predictions, labels, IGNORED)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(OFFICIAL, rel=1e-5)


def test_images_without_a_segment_train_the_classes_alone() -> None:
    (prediction, _), labels = _case()
    logits = [tensor.requires_grad_() for tensor in prediction]
    found = MaskClassificationLoss(CLASSES, num_points=16)([prediction], torch.full_like(labels, IGNORED), IGNORED)
    assert [found[name].item() for name in ("loss_mask", "loss_dice")] == [0, 0]
    no_object = F.cross_entropy(logits[0].flatten(0, 1), torch.full((40,), CLASSES))
    assert found["loss_cls"].item() == pytest.approx(2 * no_object.item(), rel=1e-5)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in logits)


def test_segments_are_the_classes_that_are_there() -> None:
    labels = torch.tensor([[3, 3, IGNORED], [0, 3, IGNORED]], dtype=torch.uint8)
    classes, masks = segments(labels, IGNORED)
    assert classes.tolist() == [0, 3]
    assert masks.tolist() == [[[0, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 1, 0]]]


@pytest.mark.parametrize("size", [None, (9, 11)])
def test_scores_are_sums_over_queries(size: tuple[int, int] | None) -> None:
    torch.manual_seed(2)
    classes, masks = torch.randn(2, 5, 4), torch.randn(2, 5, 3, 2)
    found = semantic_scores(classes, masks, size)
    height, width = size or (12, 8)
    resized = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
    expected = torch.einsum("nqk,nqhw->nkhw", classes.softmax(2)[..., :3], resized.sigmoid())
    assert found.shape == (2, 3, height, width)
    assert torch.allclose(found, expected, atol=1e-6)
