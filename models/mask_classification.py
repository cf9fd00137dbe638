"""Mask classification: queries that tell a class and a mask each, the map of classes they make, and the loss that trains them.

Shared by networks of the MaskFormer family (arXiv 2107.06278, 2112.01527); in torch and scipy, without mmdet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segc.core.contract import Size

Prediction = tuple[Tensor, Tensor]
Segments = tuple[Tensor, Tensor]


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: Size | None = None) -> Tensor:
    """Scores of the classes: the sum over queries of the class's probability times the mask's.

    Args:
        class_logits: (N, Q, K + 1), the last one of "no object".
        mask_logits: (N, Q, h, w).
        size: (H, W) to which the masks are resized first (bilinear), as the papers do; None for four times their own.

    Returns:
        (N, K, H, W), from 0; the largest is the class. They are no logits: a softmax of them means nothing.
    """
    height, width = size or (4 * mask_logits.shape[2], 4 * mask_logits.shape[3])
    masks = F.interpolate(mask_logits, (height, width), mode="bilinear", align_corners=False).sigmoid()
    classes = class_logits.softmax(-1)[..., :-1].transpose(1, 2)
    return (classes @ masks.flatten(2)).view(*classes.shape[:2], height, width)


@MODELS.register_module()
class MaskClassificationLoss(nn.Module):
    """The loss of Mask2Former (section 3.3): each segment is matched with one query; classes by cross-entropy, masks by points.

    A segment is the pixels of one class of an image. Masks are compared at ``num_points`` points, of which ``importance_ratio`` are those
    of ``oversample_ratio`` times as many random ones at which the query is least certain.

    Args:
        num_classes: K.
        class_weight, mask_weight, dice_weight: factors of the losses, and of the costs of the matching.
        no_object_weight: weight in the cross-entropy of a query without a segment.
        num_points, oversample_ratio, importance_ratio: see above.
    """

    weights: Tensor

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.num_points = num_points
        self.sampled, self.important = int(num_points * oversample_ratio), int(num_points * importance_ratio)
        self.register_buffer("weights", torch.tensor([1.0] * num_classes + [no_object_weight]), persistent=False)

    def forward(self, predictions: Sequence[Prediction], labels: Tensor, ignore_index: int = 255) -> dict[str, Tensor]:
        """Weighted losses of every prediction: the last one's by their names, those before it as ``d0.loss_mask``, ...

        Args:
            predictions: logits of classes (N, Q, K + 1) and of masks (N, Q, h, w), first to last.
            labels: (N, H, W) integers.
            ignore_index: the label of pixels that belong to no segment.
        """
        targets = [segments(image, ignore_index) for image in labels]
        count = torch.tensor(float(sum(len(classes) for classes, _ in targets)), device=labels.device)
        all_reduce(count, "mean")
        count = count.clamp(min=1)
        losses = self._losses(predictions[-1], targets, count)
        for index, prediction in enumerate(predictions[:-1]):
            losses |= {f"d{index}.{name}": value for name, value in self._losses(prediction, targets, count).items()}
        return losses

    def _losses(self, prediction: Prediction, targets: list[Segments], count: Tensor) -> dict[str, Tensor]:
        class_logits, mask_logits = (logits.float() for logits in prediction)
        pairs = [self._match((classes, masks), target) for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True)]
        wanted = torch.full(class_logits.shape[:2], len(self.weights) - 1, device=class_logits.device)
        for row, (queries, found), (classes, _) in zip(wanted, pairs, targets, strict=True):
            row[queries] = classes[found]
        masks = torch.cat([one[queries] for one, (queries, _) in zip(mask_logits, pairs, strict=True)])
        truth = torch.cat([one[found] for (_, one), (_, found) in zip(targets, pairs, strict=True)])
        points = self._points(masks.detach())
        logits, there = sample(masks, points), sample(truth, points)
        return {
            "loss_cls": self.class_weight * F.cross_entropy(class_logits.transpose(1, 2), wanted, self.weights),
            "loss_mask": self.mask_weight * F.binary_cross_entropy_with_logits(logits, there, reduction="none").mean(1).sum() / count,
            "loss_dice": self.dice_weight * _dice(logits.sigmoid(), there).sum() / count,
        }

    @torch.no_grad()
    def _match(self, prediction: Prediction, target: Segments) -> tuple[Tensor, Tensor]:
        """Of one image: queries and the segments they get, one each, at the least sum of costs."""
        (class_logits, mask_logits), (classes, masks) = prediction, target
        points = torch.rand(1, self.num_points, 2, device=masks.device)
        with torch.autocast(masks.device.type, enabled=False):
            logits, there = (sample(one, points.expand(len(one), -1, -1)) for one in (mask_logits, masks))
            entropy = (F.softplus(-logits) @ there.T + F.softplus(logits) @ (1 - there).T) / self.num_points
            dice = _dice(logits.sigmoid()[:, None], there[None])
            cost = self.mask_weight * entropy - self.class_weight * class_logits.softmax(-1)[:, classes] + self.dice_weight * dice
        queries, found = linear_sum_assignment(cost.cpu().numpy())
        return torch.as_tensor(queries, device=masks.device), torch.as_tensor(found, device=masks.device)

    @torch.no_grad()
    def _points(self, mask_logits: Tensor) -> Tensor:
        """Points (M, num_points, 2) in the unit square, most of them where the masks (M, h, w) are least certain."""
        points = torch.rand(len(mask_logits), self.sampled, 2, device=mask_logits.device)
        index = sample(mask_logits, points).abs().neg().topk(self.important, 1)[1]
        chosen = points.gather(1, index[..., None].expand(-1, -1, 2))
        return torch.cat([chosen, torch.rand(len(mask_logits), self.num_points - self.important, 2, device=mask_logits.device)], 1)


def segments(labels: Tensor, ignore_index: int) -> Segments:
    """The classes (M,) in a map of labels (H, W), and the mask of each (M, H, W) as float32 zeros and ones."""
    classes = labels.unique()
    classes = classes[classes != ignore_index].long()
    return classes, (labels == classes[:, None, None]).float()


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps (M, H, W) at points (M, P, 2), right and down in the unit square: (M, P), bilinear, zero outside."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def _dice(found: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 common + 1) / (both + 1) over the last axis."""
    return 1 - (2 * (found * truth).sum(-1) + 1) / (found.sum(-1) + truth.sum(-1) + 1)
