"""Losses of boxes, one value for each row: L1 of deltas, IoU losses of boxes (x0, y0, x1, y1).

Targets of other shapes and weights that are not one for each row are refused with a ValueError: nothing is broadcast.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detect.losses.precision import widened
from detect.ops.boxes import box_area, intersection_area

EPS = 1e-7  # of the IoU losses, as torchvision's


def l1_loss(
    deltas: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"], *, weights: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Absolute differences, summed over the four numbers of a row.

    >>> l1_loss(torch.zeros(1, 4), torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
    tensor([3.5000])
    """
    return smooth_l1_loss(deltas, targets, beta=0.0, weights=weights)


def smooth_l1_loss(
    deltas: Float[Tensor, "n 4"],
    targets: Float[Tensor, "n 4"],
    *,
    beta: float = 1.0,
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """d**2 / (2 beta) where a difference d is below beta, |d| - beta / 2 above (Girshick 2015, section 2.3); 0 is L1.

    >>> smooth_l1_loss(torch.zeros(1, 4), torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
    tensor([2.1250])
    """
    if not beta >= 0:
        raise ValueError(f"need beta >= 0, got {beta=}")
    _check_rows(deltas, targets)
    rows = functional.smooth_l1_loss(widened(deltas), widened(targets), reduction="none", beta=beta).sum(dim=1)
    return _weighted(rows, weights)


def giou_loss(
    boxes: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"], *, weights: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """1 - IoU + the share of the smallest box around both that neither fills (Rezatofighi et al. 2019, algorithm 1).

    From 0 to 2. As all IoU losses here finite, with its gradient, for boxes without area.

    >>> giou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # 1 - 0 + 4 / 12
    tensor([1.3333])
    """
    iou, union = _iou_and_union(boxes, targets)
    hull = _hull_wh(boxes, targets).prod(dim=-1)
    return _weighted(1 - iou + (hull - union) / (hull + EPS), weights)


def diou_loss(
    boxes: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"], *, weights: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """1 - IoU + (distance of the centres / diagonal of the box around both) ** 2 (Zheng et al. 2020, equation 7).

    >>> diou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # 1 - 0 + 16 / 40
    tensor([1.4000])
    """
    iou, _ = _iou_and_union(boxes, targets)
    return _weighted(1 - iou + _center_distance(boxes, targets), weights)


def ciou_loss(
    boxes: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"], *, weights: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """DIoU plus v ** 2 / (1 - IoU + v), v = (2 / pi times the difference of the diagonals' angles) ** 2.

    Zheng et al. 2020, equations 8 to 11. The share v / (1 - IoU + v) is a weight and gets no gradient, as there.

    >>> ciou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]]))  # same angle
    tensor([1.4000])
    """
    iou, _ = _iou_and_union(boxes, targets)
    v = (2 / math.pi * (_diagonal_angle(targets) - _diagonal_angle(boxes))).square()
    share = (v / (1 - iou + v + EPS)).detach()
    return _weighted(1 - iou + _center_distance(boxes, targets) + share * v, weights)


def _iou_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    _check_rows(boxes, targets)
    intersection = intersection_area(boxes, targets)
    union = box_area(boxes) + box_area(targets) - intersection
    return intersection / (union + EPS), union


def _hull_wh(boxes: Tensor, targets: Tensor) -> Tensor:
    """Width and height of the smallest box around both."""
    boxes, targets = widened(boxes), widened(targets)
    return torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])


def _center_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """The distance of the centres over the diagonal of the box around both, squared."""
    shift = widened(boxes) - widened(targets)
    shift = (shift[:, :2] + shift[:, 2:]) / 2
    return shift.square().sum(dim=1) / (_hull_wh(boxes, targets).square().sum(dim=1) + EPS)


def _diagonal_angle(boxes: Tensor) -> Tensor:
    width, height = (widened(boxes)[:, 2:] - widened(boxes)[:, :2]).unbind(dim=1)
    return torch.atan2(width, height.clamp(min=EPS))  # at (0, 0) older torch has no slope (pytorch#166787)


def _weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return rows
    if weights.shape != rows.shape:
        raise ValueError(f"weights are one for each row, {tuple(rows.shape)}, got {tuple(weights.shape)}")
    return rows * weights


def _check_rows(boxes: Tensor, targets: Tensor) -> None:
    if boxes.shape != targets.shape:
        raise ValueError(f"a target for each row: got {tuple(boxes.shape)} and targets {tuple(targets.shape)}")
