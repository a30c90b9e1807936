"""Box losses, one value for each row: L1 of deltas, IoU losses of boxes (x0, y0, x1, y1).

Nothing broadcasts: targets of another shape raise a ValueError.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detect.ops.boxes import box_area, intersection_area, widened

IOU_EPS = 1e-7  # torchvision's, for its IoU losses

Rows4 = Float[Tensor, "n 4"]
Rows = Float[Tensor, " n"]


def l1_loss(deltas: Rows4, targets: Rows4) -> Rows:
    """Absolute differences, summed over the four deltas of a row.

    >>> l1_loss(torch.zeros(1, 4), torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
    tensor([3.5000])
    """
    return smooth_l1_loss(deltas, targets, beta=0.0)


def smooth_l1_loss(deltas: Rows4, targets: Rows4, *, beta: float = 1.0) -> Rows:
    """Smooth L1 loss, summed over the four deltas of a row (Girshick 2015, section 2.3).

    A difference d costs d**2 / (2 beta) below ``beta`` and |d| - beta / 2 above it; with a beta of 0 this is L1.

    >>> smooth_l1_loss(torch.zeros(1, 4), torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
    tensor([2.1250])
    """
    if not beta >= 0:
        raise ValueError(f"need beta >= 0, got {beta=}")
    deltas, targets = _same_rows(deltas, targets)
    return functional.smooth_l1_loss(deltas, targets, reduction="none", beta=beta).sum(dim=1)


def giou_loss(boxes: Rows4, targets: Rows4) -> Rows:
    """Generalised IoU loss, from 0 to 2 (Rezatofighi et al. 2019, algorithm 1).

    1 - IoU + the share of the enclosing box that neither box fills. This and the other IoU losses stay finite, with their
    gradients, for boxes without area.

    >>> giou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # 1 - 0 + 4 / 12
    tensor([1.3333])
    """
    boxes, targets = _same_rows(boxes, targets)
    iou, union = _iou_and_union(boxes, targets)
    enclosing = _enclosing_wh(boxes, targets).prod(dim=-1)
    return 1 - iou + (enclosing - union) / (enclosing + IOU_EPS)


def diou_loss(boxes: Rows4, targets: Rows4) -> Rows:
    """Distance IoU loss: 1 - IoU + (distance of centres / diagonal of the enclosing box)**2 (Zheng et al. 2020, equation 7).

    >>> diou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # 1 - 0 + 16 / 40
    tensor([1.4000])
    """
    boxes, targets = _same_rows(boxes, targets)
    return 1 - _iou_and_union(boxes, targets)[0] + _center_distance(boxes, targets)


def ciou_loss(boxes: Rows4, targets: Rows4) -> Rows:
    """Complete IoU loss: :func:`diou_loss` plus v**2 / (1 - IoU + v) (Zheng et al. 2020, equations 8 to 11).

    v is the squared difference of the diagonals' angles, times (2 / pi)**2. The factor v / (1 - IoU + v) gets no gradient,
    as in the paper.

    >>> ciou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # same angle
    tensor([1.4000])
    """
    boxes, targets = _same_rows(boxes, targets)
    iou, _ = _iou_and_union(boxes, targets)
    v = (2 / math.pi * (_diagonal_angle(targets) - _diagonal_angle(boxes))).square()
    share = (v / (1 - iou + v + IOU_EPS)).detach()
    return 1 - iou + _center_distance(boxes, targets) + share * v


def _iou_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    intersection = intersection_area(boxes, targets)
    union = box_area(boxes) + box_area(targets) - intersection
    return intersection / (union + IOU_EPS), union


def _enclosing_wh(boxes: Tensor, targets: Tensor) -> Tensor:
    return torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])


def _center_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the enclosing box."""
    shift = boxes - targets
    shift = (shift[:, :2] + shift[:, 2:]) / 2
    return shift.square().sum(dim=1) / (_enclosing_wh(boxes, targets).square().sum(dim=1) + IOU_EPS)


def _diagonal_angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
    return torch.atan2(width, height.clamp(min=IOU_EPS))  # no gradient at (0, 0) before pytorch#166787


def _same_rows(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if boxes.shape != targets.shape:
        raise ValueError(f"need one target for each row, got {tuple(boxes.shape)} and targets {tuple(targets.shape)}")
    return widened(boxes), widened(targets)
