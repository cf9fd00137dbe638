"""What a student loses against its teacher: pure functions of two outputs (N, C, H, W) of one size, each a mean over the batch.

All are 0 for equal outputs, and none depends on the size of the images or of the batch. ``docs/distillation.md`` says which is for what.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-8


def kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 times the mean over pixels of KL(teacher || student) of the classes' softmax at T, ``temperature`` (Hinton, arXiv 1503.02531)."""
    return temperature**2 * _divergence(student, teacher, temperature).mean()


def boundary(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 4.0, radius: int = 3, strength: float = 5.0
) -> Tensor:
    """``kd`` as a weighted mean: a pixel near a border of the labels counts ``1 + strength``, another one 1.

    Args:
        student, teacher: logits (N, K, h, w).
        labels: (N, H, W) train ids, of any size.
        temperature: see ``kd``.
        radius: pixels of the label around a border, see ``near_border``.
        strength: from 0, where the loss is that of ``kd``.
    """
    band = F.adaptive_max_pool2d(near_border(labels, radius)[:, None].float(), student.shape[2:])[:, 0]
    weights = 1 + strength * band
    return temperature**2 * (weights * _divergence(student, teacher, temperature)).sum() / weights.sum()


def near_border(labels: Tensor, radius: int) -> Tensor:
    """Pixels of (N, H, W) labels with another label at most ``radius`` columns and rows away; unlabelled regions have borders too."""
    images = labels[:, None].float()
    highest, lowest = (sign * F.max_pool2d(sign * images, 2 * radius + 1, 1, radius) for sign in (1, -1))
    return (highest != lowest)[:, 0]


def cwd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (Shu et al., ICCV 2021, arXiv 2011.13256, eq. 4): each channel is a distribution over the pixels.

    T^2 / C times the sum over channels of KL(teacher || student) of the softmax over pixels.
    """
    return temperature**2 * _divergence(student.flatten(2), teacher.flatten(2), temperature, dim=2).mean()


def feature(student: Tensor, teacher: Tensor, *, similarity: str = "mse") -> Tensor:
    """Features against features: the mean squared difference (``mse``), or 1 - cosine over channels, averaged over pixels (``cosine``)."""
    if similarity == "cosine":
        return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
    return F.mse_loss(student, teacher)


def dist(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0) -> Tensor:
    """DIST (Huang et al., NeurIPS 2022, arXiv 2205.10536, eq. 6 to 10): correlation in place of equality of the classes' softmax.

    T^2 times (``inter`` * (1 - Pearson's correlation over the classes of a pixel) + ``intra`` * (1 - that over the pixels of a class)),
    averaged over pixels and over classes.
    """
    found, wanted = (_pixels(logits).div(temperature).softmax(1) for logits in (student, teacher))
    between = 1 - _pearson(found, wanted).mean()
    within = 1 - _pearson(found.T, wanted.T).mean()
    return temperature**2 * (inter * between + intra * within)


def affinity(student: Tensor, teacher: Tensor, *, temperature: float = 0.1, grid: int = 32) -> Tensor:
    """Pixel-to-pixel relations inside an image, as CIRKD has them between images (Yang et al., CVPR 2022, arXiv 2204.06986, eq. 3 to 5).

    KL(teacher || student) of the softmax at ``temperature`` over a pixel's cosine similarities to all pixels, averaged over pixels.
    Maps larger than ``grid`` x ``grid`` are averaged down to it first. The two may differ in channels.
    """
    found, wanted = (_similarities(features, grid) for features in (student, teacher))
    return _divergence(found, wanted, temperature, dim=2).mean()


def _divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) over ``dim``."""
    found, wanted = (F.log_softmax(logits / temperature, dim) for logits in (student, teacher))
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim)


def _pixels(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C)."""
    return maps.movedim(1, -1).flatten(0, -2)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each row."""
    first, second = (rows - rows.mean(1, keepdim=True) for rows in (first, second))
    return F.cosine_similarity(first, second, dim=1, eps=_EPSILON)


def _similarities(features: Tensor, grid: int) -> Tensor:
    """Cosine of every two pixels (N, P, P), P at most ``grid`` squared."""
    height, width = features.shape[2:]
    pooled = F.adaptive_avg_pool2d(features, (min(height, grid), min(width, grid)))
    unit = F.normalize(pooled.flatten(2), dim=1)
    return torch.bmm(unit.transpose(1, 2), unit)
