"""The losses of heads: by hand, at their limits, against torchvision, and over two processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from detect import losses
from detect.interop.torchvision import import_torchvision
from detect.losses import (
    MovingDivisors,
    batch_divisors,
    ciou_loss,
    diou_loss,
    focal_loss,
    giou_loss,
    image_divisors,
    l1_loss,
    smooth_l1_loss,
    soft_focal_loss,
)
from detect.shapes import BACKGROUND, IGNORE

import_torchvision()

from torchvision import ops  # noqa: E402 - after the import above

LN2, LN3 = math.log(2), math.log(3)
SETTINGS = [{}, {"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 1.5, "alpha": 0.6}, {"gamma": 3, "alpha": 1}, {"alpha": 0.0}]
IOU_LOSSES = {
    giou_loss: ops.generalized_box_iou_loss,
    diou_loss: ops.distance_box_iou_loss,
    ciou_loss: ops.complete_box_iou_loss,
}
Loss = Callable[..., Tensor]


def random_heads(seed: int, shape: tuple[int, int, int] = (2, 40, 5)) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape, generator=random, dtype=torch.float64) - 1
    return logits, torch.randint(IGNORE, shape[2], shape[:2], generator=random)


def one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    return functional.one_hot(classes.clamp(min=0), logits.shape[2]).to(logits) * (classes >= 0)[..., None]


def random_boxes(seed: int, count: int = 50) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, count, 2, generator=random, dtype=torch.float64) * 50
    return torch.cat([corner, corner + 1 + size], dim=1)


def slopes(loss: Loss, values: Tensor, *args: Tensor, **options: float) -> Tensor:
    values = values.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(values, *args, **options).sum(), values)[0]


def test_focal_loss_by_hand():
    # logits ln 3 and -ln 3: p = 3/4 and 1/4
    logits = torch.tensor([[[LN3, -LN3], [LN3, -LN3]], [[-LN3, LN3], [LN3, LN3]]])
    classes = torch.tensor([[0, BACKGROUND], [0, IGNORE]])
    sure, unsure = math.log(4 / 3) / 16, 9 * math.log(4) / 16  # (1/4)^2 * -ln 3/4 and (3/4)^2 * -ln 1/4
    # image 0: a positive found, a negative let be; then a false alarm, a negative let be. Image 1: a miss and a false alarm
    first = 0.25 * sure + 0.75 * sure + 0.75 * unsure + 0.75 * sure
    second = 0.25 * unsure + 0.75 * unsure
    assert_close(focal_loss(logits, classes), torch.tensor([first, second]))


def test_without_focus_and_balance_it_is_half_the_cross_entropy():
    logits, classes = random_heads(0)
    targets = one_hot(classes, logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = (entropy * (classes != IGNORE)[..., None]).sum(dim=(1, 2)) / 2
    assert_close(focal_loss(logits, classes, alpha=0.5, gamma=0), expected)
    assert_close(soft_focal_loss(logits, targets, ignored=classes == IGNORE, alpha=0.5, gamma=0), expected)


@pytest.mark.parametrize("options", SETTINGS)
def test_torchvision_finds_the_same_focal_loss_and_slopes(options):
    logits, classes = random_heads(1)
    counted = (classes != IGNORE)[..., None]

    def reference(logits):
        return (ops.sigmoid_focal_loss(logits, one_hot(classes, logits), **options) * counted).sum(dim=(1, 2))

    assert_close(focal_loss(logits, classes, **options), reference(logits))
    assert_close(slopes(focal_loss, logits, classes, **options), slopes(reference, logits))
    assert_close(focal_loss(logits.float(), classes, **options), reference(logits).float())
    assert_close(slopes(focal_loss, logits.float(), classes, **options), slopes(reference, logits).float())


@pytest.mark.parametrize("options", SETTINGS)
def test_torchvision_finds_the_same_for_soft_targets(options):
    logits, _ = random_heads(2)
    targets = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def reference(logits):
        return ops.sigmoid_focal_loss(logits, targets, **options).sum(dim=(1, 2))

    assert_close(soft_focal_loss(logits, targets, **options), reference(logits))
    assert_close(slopes(soft_focal_loss, logits, targets, **options), slopes(reference, logits))


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 4))
def test_soft_targets_of_zeros_and_ones_are_classes(seed, alpha, gamma):
    logits, classes = random_heads(seed, (2, 7, 3))
    targets = one_hot(classes, logits)
    hard = focal_loss(logits, classes, alpha=alpha, gamma=gamma)
    assert_close(soft_focal_loss(logits, targets, ignored=classes == IGNORE, alpha=alpha, gamma=gamma), hard)


@pytest.mark.parametrize("elements", [1, 5, 7, 20, 35, 1000])
def test_chunks_do_not_show(monkeypatch, elements):
    logits, classes = random_heads(3, (2, 11, 5))
    classes[:, ::4] = 4  # the first and the last row of chunks
    classes[:, 3::4] = IGNORE
    targets = one_hot(classes, logits)
    calls = ((focal_loss, classes), (soft_focal_loss, targets))
    expected = [(loss(logits, goal), slopes(loss, logits, goal)) for loss, goal in calls]
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", elements)
    for (loss, goal), (value, slope) in zip(calls, expected, strict=True):
        assert_close(loss(logits, goal), value)
        assert_close(slopes(loss, logits, goal), slope)


@given(st.integers(0, 999))
def test_images_are_summed_each_by_itself(seed):
    logits, classes = random_heads(seed, (3, 6, 2))
    alone = [focal_loss(logits[image : image + 1], classes[image : image + 1]) for image in range(3)]
    assert_close(focal_loss(logits, classes), torch.cat(alone))
    scales = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    together = slopes(lambda values: focal_loss(values, classes) * scales, logits)
    assert_close(together, scales[:, None, None] * slopes(focal_loss, logits, classes))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 3.0])
def test_ignored_anchors_add_nothing_whatever_their_logits(odd):
    logits, classes = random_heads(4)
    clean = logits.clone()
    logits[classes == IGNORE] = odd
    targets, ignored = one_hot(classes, logits), classes == IGNORE
    for loss, goal, options in ((focal_loss, classes, {}), (soft_focal_loss, targets, {"ignored": ignored})):
        assert_close(loss(logits, goal, **options), loss(clean, goal, **options))
        slope = slopes(loss, logits, goal, **options)
        assert_close(slope[ignored], torch.zeros_like(slope[ignored]), rtol=0, atol=0)
        assert_close(slope, slopes(loss, clean, goal, **options))


def test_class_weights_are_factors_of_the_columns():
    logits, classes = random_heads(5)
    weights = torch.tensor([0.5, 1, 2, 0, 3], dtype=torch.float64)
    targets, ignored = one_hot(classes, logits), classes == IGNORE

    def reference(logits):
        return (ops.sigmoid_focal_loss(logits, targets) * weights * ~ignored[..., None]).sum(dim=(1, 2))

    for loss, goal, options in ((focal_loss, classes, {}), (soft_focal_loss, targets, {"ignored": ignored})):
        assert_close(loss(logits, goal, class_weights=weights, **options), reference(logits))
        assert_close(slopes(loss, logits, goal, class_weights=weights, **options), slopes(reference, logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_logits_of_a_hundred_stay_finite(dtype, gamma):
    logits = torch.tensor([[[100.0, -100.0], [100.0, -100.0]]], dtype=dtype)
    classes = torch.tensor([[1, BACKGROUND]])
    # a miss of 100 at .25, and two false alarms of 100 at .75; the right answers cost nothing
    expected = torch.tensor([25.0 + 150.0], dtype=torch.promote_types(dtype, torch.float32))
    slope = torch.tensor([[[0.75, -0.25], [0.75, 0.0]]], dtype=dtype)
    for loss, goal in ((focal_loss, classes), (soft_focal_loss, one_hot(classes, logits))):
        assert_close(loss(logits, goal, gamma=gamma), expected)
        assert_close(slopes(loss, logits, goal, gamma=gamma), slope)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    logits, classes = random_heads(6)
    logits = logits.to(dtype)
    targets = one_hot(classes, logits)
    for loss, goal in ((focal_loss, classes), (soft_focal_loss, targets)):
        assert_close(loss(logits, goal), loss(logits.float(), goal.float() if goal.is_floating_point() else goal))
        exact = slopes(lambda values, loss=loss, goal=goal: 1000 * loss(values, goal), logits.double())
        slope = slopes(lambda values, loss=loss, goal=goal: 1000 * loss(values, goal), logits)
        assert slope.dtype == dtype
        assert_close(slope, exact.to(dtype))


def test_scaling_saves_small_slopes_of_half_precision():
    # p = 1/1000: the slope .75 p^2 (p + 2 p) = 2.2e-9 is below float16's least number, 6e-8, but not 65,536 times it
    logits, classes = torch.full((1, 1, 1), -math.log(999), dtype=torch.float16), torch.tensor([[BACKGROUND]])
    p = torch.sigmoid(logits.double()).item()
    slope = slopes(lambda values: 65_536 * focal_loss(values, classes), logits)
    expected = 65_536 * 0.75 * p**2 * (p + 2 * (1 - p) * -math.log(1 - p))
    assert_close(slope, torch.full((1, 1, 1), expected, dtype=torch.float16), rtol=1e-3, atol=0)


def test_autocast_changes_nothing():
    logits, classes = random_heads(7)
    logits = logits.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, slope = focal_loss(logits, classes), slopes(focal_loss, logits, classes)
        soft = soft_focal_loss(logits, one_hot(classes, logits))
    assert_close(value, focal_loss(logits, classes))
    assert_close(slope, slopes(focal_loss, logits, classes))
    assert_close(soft, soft_focal_loss(logits, one_hot(classes, logits)))


def test_a_second_backward_pass_finds_the_same():
    logits, classes = random_heads(8)
    logits.requires_grad_()
    loss = focal_loss(logits, classes)
    first, second = (torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for _ in range(2))
    assert_close(first, second)
    doubled = torch.autograd.grad(2 * loss.sum(), logits)[0]
    assert_close(doubled, 2 * first)
    twice = focal_loss(logits, classes) + focal_loss(logits, classes)
    twice.sum().backward()
    assert_close(logits.grad, 2 * first)


def test_arguments_are_left_as_they_were_and_may_be_views():
    logits, classes = random_heads(9)
    before, classes_before = logits.clone(), classes.clone()
    expected = focal_loss(logits, classes), slopes(focal_loss, logits, classes)
    channels_first = logits.transpose(1, 2).contiguous().transpose(1, 2)
    columns = classes.T.contiguous().T
    assert_close(focal_loss(channels_first, columns), expected[0])
    assert_close(
        slopes(lambda values: focal_loss(values.transpose(1, 2), columns), logits.transpose(1, 2)).mT, expected[1]
    )
    assert_close(logits, before, rtol=0, atol=0)
    assert_close(classes, classes_before, rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
def test_slopes_of_the_focal_losses_are_those_of_the_values(gamma):
    logits, classes = random_heads(10, (2, 5, 3))
    targets = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.tensor([0.5, 1, 2], dtype=torch.float64)
    logits = (logits / 2).requires_grad_()
    for loss, goal in ((focal_loss, classes), (soft_focal_loss, targets)):
        assert torch.autograd.gradcheck(
            lambda values, loss=loss, goal=goal: loss(values, goal, gamma=gamma, class_weights=weights), logits
        )


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_no_images_anchors_or_classes_are_ordinary(shape):
    logits, classes = torch.zeros(shape, requires_grad=True), torch.full(shape[:2], BACKGROUND)
    for loss, goal in ((focal_loss, classes), (soft_focal_loss, torch.zeros(shape))):
        sums = loss(logits, goal)
        assert_close(sums, torch.zeros(shape[0]), check_stride=False)
        sums.sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == shape


def test_an_image_without_objects_costs_its_false_alarms():
    # four anchors, three classes, p = 1/2: 12 negatives of 3/4 * 1/4 * ln 2
    sums = focal_loss(torch.zeros(1, 4, 3), torch.full((1, 4), BACKGROUND))
    assert_close((sums / image_divisors(torch.tensor([0]))).sum(), torch.tensor(12 * 0.75 * 0.25 * LN2))


@pytest.mark.parametrize("loss", [focal_loss, soft_focal_loss])
@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -1}, {"gamma": -0.5}, {"gamma": math.nan}])
def test_balance_and_focus_out_of_range_are_refused(loss, options):
    logits, classes = random_heads(0)
    goal = classes if loss is focal_loss else one_hot(classes, logits)
    with pytest.raises(ValueError, match=r"need 0 <= alpha <= 1 and gamma >= 0, got alpha=.*gamma="):
        loss(logits, goal, **options)


def test_a_class_beyond_the_logits_is_refused():
    with pytest.raises(ValueError, match="class 3 among classes, but the logits have 3, counted from 0"):
        focal_loss(torch.zeros(1, 2, 3), torch.tensor([[0, 3]]))


def test_a_compiled_graph_has_the_focal_losses_whole():
    program = """
import torch
from detect.losses import focal_loss, soft_focal_loss
random = torch.Generator().manual_seed(0)
logits, classes = torch.randn(2, 9, 4, generator=random), torch.randint(-2, 4, (2, 9), generator=random)
targets = torch.rand(2, 9, 4, generator=random)
for loss, goal in ((focal_loss, classes), (soft_focal_loss, targets)):
    plain = lambda x: 2 * loss(3 * x, goal)
    results = []
    for function in (torch.compile(plain, backend="aot_eager", fullgraph=True), plain):
        values = logits.clone().requires_grad_()
        sums = function(values)
        (sums * torch.tensor([1.0, 0.5])).sum().backward()
        results.append((sums, values.grad))
    torch.testing.assert_close(*results)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


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


@pytest.mark.parametrize("loss", IOU_LOSSES)
def test_iou_losses_vanish_only_for_equal_boxes_and_forget_place_and_scale(loss):
    boxes, targets = random_boxes(2), random_boxes(3)
    assert_close(loss(boxes, boxes), torch.zeros(50, dtype=torch.float64))
    assert (loss(boxes, targets) > 0.01).all()
    assert_close(loss(8 * boxes - 3, 8 * targets - 3), loss(boxes, targets))
    assert_close(loss(targets, boxes), loss(boxes, targets))


def test_far_boxes_are_worse_than_near_ones():
    box, near, far = (
        torch.tensor([[0.0, 0, 1, 1]]),
        torch.tensor([[2.0, 0, 3, 1]]),
        torch.tensor([[1e4, 0, 1e4 + 1, 1]]),
    )
    for loss in IOU_LOSSES:
        assert loss(box, near) < loss(box, far) <= 2


@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, giou_loss, diou_loss])
def test_slopes_of_the_box_losses_are_those_of_the_values(loss):
    boxes, targets = random_boxes(4, 6).requires_grad_(), random_boxes(5, 6).requires_grad_()
    weights = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, t, w: loss(b, t, weights=w), (boxes, targets, weights))


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
    odd = [[3.0, 3, 3, 3], [3.0, 0, 3, 9], [0.0, 3, 9, 3], [9.0, 9, 0, 0], [0.0, 0, 9, 9], [0.0, 0, 500, 500]]
    table = torch.tensor(odd, dtype=dtype)
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
def test_box_losses_weigh_rows_and_take_none(loss):
    boxes, targets = random_boxes(8), random_boxes(9)
    weights = torch.linspace(0, 2, 50, dtype=torch.float64)
    assert_close(loss(boxes, targets, weights=weights), weights * loss(boxes, targets))
    none = torch.zeros(0, 4, requires_grad=True)
    rows = loss(none, torch.zeros(0, 4), weights=torch.zeros(0))
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


def test_divisors_by_hand():
    sums, positives = torch.tensor([6.0, 8.0, 5.0]), torch.tensor([3, 4, 0])
    # per image: the mean of 6 / 3, 8 / 4 and 5 / 1; per batch: 19 / (3 + 4 + 1); moving: 19 / (.9 * 100 + .1 * 7)
    assert_close((sums / image_divisors(positives)).sum(), torch.tensor((2.0 + 2 + 5) / 3))
    assert_close((sums / batch_divisors(positives)).sum(), torch.tensor(19 / 8))
    assert_close((sums / MovingDivisors()(positives)).sum(), torch.tensor(19 / 90.7))


def test_the_moving_average_counts_an_empty_batch_as_one():
    divisors, average = MovingDivisors(initial=10, momentum=0.5), 10.0
    for positives in ([4, 2], [0, 0], [100, 0]):
        average = 0.5 * average + 0.5 * max(1, sum(positives))
        assert_close(divisors(torch.tensor(positives)), torch.full((2,), average))


def test_a_checkpoint_keeps_the_moving_average():
    divisors = MovingDivisors()
    before = divisors(torch.tensor([300]))
    again = MovingDivisors()
    again.load_state_dict(divisors.state_dict())
    assert_close(again(torch.tensor([7])), divisors(torch.tensor([7])))
    assert_close(before, torch.tensor([120.0]))  # what was goal out does not move with the average


def test_the_moving_average_rests_in_evaluation():
    divisors = MovingDivisors().eval()
    assert_close(divisors(torch.tensor([5, 5])), torch.tensor([100.0, 100.0]))
    assert_close(divisors.average, torch.tensor(100.0))


@pytest.mark.parametrize("divisors", [image_divisors, batch_divisors, MovingDivisors()])
def test_no_images_have_no_divisors(divisors):
    assert divisors(torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("options", [{"initial": 0}, {"momentum": 1}, {"momentum": -0.1}])
def test_a_moving_average_that_cannot_move_is_refused(options):
    with pytest.raises(ValueError, match="need initial > 0 and 0 <= momentum < 1"):
        MovingDivisors(**options)


PROCESS = """
import os
import sys
import torch
from torch import distributed, nn
from detect.losses import MovingDivisors, batch_divisors

def gradient_of(divisors):
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 1, bias=False))
    nn.init.ones_(model.module.weight)
    for _ in range(2):
        model.zero_grad()
        (model(values)[:, 0].square() / divisors(positives)).sum().backward()
    return model.module.weight.grad

rank, store, answer = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
values, positives = torch.load(answer + ".data")
values, positives = values[2 * rank : 2 * rank + 2], positives[2 * rank : 2 * rank + 2]
answers = [gradient_of(divisors) for divisors in (batch_divisors, MovingDivisors(initial=50.0))]
if rank == 1:
    torch.save(answers, answer)
distributed.barrier()
os._exit(0)  # gloo's threads can abort an interpreter that takes itself down beneath them
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path):
    random = torch.Generator().manual_seed(0)
    values, positives = torch.randn(4, 3, generator=random), torch.tensor([3, 40, 0, 500])
    answer = tmp_path / "answer"
    torch.save((values, positives), f"{answer}.data")
    command = [sys.executable, "-c", PROCESS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(answer)], env=environment)
        for rank in (0, 1)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    # the average of a process moves from 50 by its share of the positives: the whole batch's from 100
    for divisors, ours in zip((batch_divisors, MovingDivisors(initial=100)), torch.load(answer), strict=True):
        model = nn.Linear(3, 1, bias=False)
        nn.init.ones_(model.weight)
        for _ in range(2):
            model.zero_grad()
            (model(values)[:, 0].square() / divisors(positives)).sum().backward()
        assert_close(ours, model.weight.grad)
