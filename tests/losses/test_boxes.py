"""The losses of boxes: by hand, at their limits, against torchvision."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision import ops

from detect.losses import ciou_loss, diou_loss, giou_loss, l1_loss, smooth_l1_loss

IOU_LOSSES = {
    giou_loss: ops.generalized_box_iou_loss,
    diou_loss: ops.distance_box_iou_loss,
    ciou_loss: ops.complete_box_iou_loss,
}


def random_boxes(seed: int, count: int = 50) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, count, 2, generator=random, dtype=torch.float64) * 50
    return torch.cat([corner, corner + 1 + size], dim=1)


def slopes(loss: Callable[..., Tensor], values: Tensor, *args: Tensor, **options: float) -> Tensor:
    values = values.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(values, *args, **options).sum(), values)[0]


def test_differences_by_hand():
    deltas, targets = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.5, 2.0, 1.0, 4.25]])
    # differences .5, 0, 2, .25; with beta .5: .5^2 / 1 = .25 = .5 - .25, 0, 2 - .25, .25^2 / 1
    assert_close(l1_loss(deltas, targets), torch.tensor([2.75]))
    assert_close(smooth_l1_loss(deltas, targets, beta=0.5), torch.tensor([0.25 + 1.75 + 0.0625]))
    assert_close(smooth_l1_loss(deltas, targets, beta=0), l1_loss(deltas, targets))


def test_iou_losses_by_hand():
    box, target = torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, 0, 4, 4]])
    # 8 and 8 share 2x2 = 4 of 12; the box around both is 4x4 = 16, its diagonal squared 32; centres (2, 1) and (3, 2)
    iou = 4 / 12
    assert_close(giou_loss(box, target), torch.tensor([1 - iou + (16 - 12) / 16]))
    assert_close(diou_loss(box, target), torch.tensor([1 - iou + 2 / 32]))
    v = (2 / math.pi * (math.atan(2 / 4) - math.atan(4 / 2))) ** 2
    assert_close(ciou_loss(box, target), torch.tensor([1 - iou + 2 / 32 + v * v / (1 - iou + v)]))


@pytest.mark.parametrize("loss", IOU_LOSSES)
def test_torchvision_finds_the_same_iou_losses_and_slopes(loss):
    boxes, targets = random_boxes(0), random_boxes(1)
    assert_close(loss(boxes, targets), IOU_LOSSES[loss](boxes, targets))
    assert_close(slopes(loss, boxes, targets), slopes(IOU_LOSSES[loss], boxes, targets))
    assert_close(loss(boxes.float(), targets.float()), IOU_LOSSES[loss](boxes, targets).float())


@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, giou_loss, diou_loss])
def test_slopes_of_the_box_losses_are_those_of_the_values(loss):
    boxes, targets = random_boxes(4, 6).requires_grad_(), random_boxes(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(loss, (boxes, targets))


def test_slopes_of_ciou_take_the_share_as_a_weight():
    boxes, targets = random_boxes(6, 6).requires_grad_(), random_boxes(7, 6)

    def angle_term(boxes):
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(dim=1)
        goal_width, goal_height = (targets[:, 2:] - targets[:, :2]).unbind(dim=1)
        return 4 / math.pi**2 * (torch.atan(goal_width / goal_height) - torch.atan(width / height)) ** 2

    v = angle_term(boxes.detach())
    frozen = v / (1 - ops.box_iou(boxes.detach(), targets).diagonal() + v)
    assert torch.autograd.gradcheck(lambda b: diou_loss(b, targets) + frozen * angle_term(b), boxes)
    expected = slopes(lambda b: diou_loss(b, targets) + frozen * angle_term(b), boxes)
    assert_close(slopes(ciou_loss, boxes, targets), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", IOU_LOSSES)
def test_boxes_without_area_have_finite_losses_and_slopes(loss, dtype):
    suspicious = [[3.0, 3, 3, 3], [3.0, 0, 3, 9], [0.0, 3, 9, 3], [9.0, 9, 0, 0], [0.0, 0, 9, 9], [0.0, 0, 500, 500]]
    table = torch.tensor(suspicious, dtype=dtype)
    boxes, targets = table.repeat_interleave(6, 0).requires_grad_(), table.repeat(6, 1).requires_grad_()
    rows = loss(boxes, targets)
    assert rows.isfinite().all()
    for slope in torch.autograd.grad(rows.sum(), (boxes, targets)):
        assert slope.isfinite().all()


def test_a_target_without_area_is_missed_wholly():
    # a point in the middle of a box 4x4: IoU 0, and the box around both is filled
    box, point = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 2, 2, 2]])
    assert_close(giou_loss(box, point), torch.tensor([1.0]))
    assert_close(diou_loss(box, point), torch.tensor([1.0]))


@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, *IOU_LOSSES])
def test_no_boxes_are_no_special_case(loss):
    none = torch.zeros(0, 4, requires_grad=True)
    rows = loss(none, torch.zeros(0, 4))
    assert rows.shape == (0,)
    rows.sum().backward()
    assert_close(none.grad, torch.zeros(0, 4))


@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, *IOU_LOSSES])
def test_half_precision_boxes_are_computed_in_single(loss):
    boxes, targets = ((8 * random_boxes(seed)).half() for seed in (10, 11))
    assert_close(loss(boxes, targets), loss(boxes.float(), targets.float()), rtol=0, atol=0)


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"need beta >= 0, got beta=-1"):
        smooth_l1_loss(torch.zeros(1, 4), torch.zeros(1, 4), beta=-1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, *IOU_LOSSES])
def test_box_losses_go_row_by_row_and_broadcast_nothing(loss):
    boxes = random_boxes(8)
    for one, other in ((boxes, boxes[:1]), (boxes[:1], boxes), (boxes, boxes[:49])):
        shapes = re.escape(f"got {tuple(one.shape)} and targets {tuple(other.shape)}")
        with pytest.raises(ValueError, match=f"need one target for each row, {shapes}"):
            loss(one, other)
