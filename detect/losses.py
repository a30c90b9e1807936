"""The losses of detector heads: focal loss for classes, L1 and IoU losses for boxes, and what divides their sums.

A class is an index from 0, ``BACKGROUND`` or ``IGNORE``. The focal losses give one sum for each image, the box losses one
value for each row. A batch's loss is ``(sums / divisors).sum()``, where one rule makes the divisors, one for each image,
from the numbers of positives: :func:`image_divisors`, :func:`batch_divisors` or :class:`MovingDivisors`. Images without
positives, and no rows, are ordinary. Half precision is computed and returned in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from detect.box_overlap import box_area, intersection_area
from detect.shapes import IGNORE

CHUNK_ELEMENTS = {"cpu": 2**20}  # three buffers of so many floats fit a cache; less, and threads wait for each other
CHUNK_ELEMENTS_ELSEWHERE = 2**24  # few kernels
EPS = 1e-7  # of the IoU losses, as torchvision's


def focal_loss(
    logits: Float[Tensor, "b a c"],
    classes: Int64[Tensor, "b a"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    class_weights: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, " b"]:
    """Sigmoid focal loss (Lin et al. 2017, section 3.2), summed over the anchors and classes of each image.

    An anchor of class k has target 1 for k and 0 for the others; background has 0 for all. ``IGNORE`` adds nothing and gets
    no gradient, whatever its logits. The gradient is made along with the sums, chunk by chunk, and takes little more memory
    than itself. To ``torch.compile`` all of it is one operator.

    >>> from detect.shapes import BACKGROUND
    >>> logits = torch.zeros(1, 3, 2)  # p = 1/2 everywhere: 1/4 ln 2 times 1/4 for the positive, 3/4 for each negative
    >>> focal_loss(logits, torch.tensor([[1, BACKGROUND, IGNORE]])) / math.log(2)
    tensor([0.6250])

    Args:
        alpha: weight of positives, 1 - alpha that of negatives; from 0 to 1.
        gamma: exponent of 1 - p of the right answer; at least 0, which leaves the cross-entropy.
        class_weights: a factor for each class, of positives and negatives alike.

    Raises:
        ValueError: alpha or gamma out of range, shapes that differ, or a class beyond the logits' (on the CPU).
    """
    _check_focal(logits, classes, alpha, gamma)
    check = classes.device.type == "cpu" and classes.numel() > 0 and not torch.compiler.is_compiling()
    if check and (largest := int(classes.max())) >= logits.shape[2]:  # CUDA asserts it by itself
        raise ValueError(f"class {largest} among classes, but the logits have {logits.shape[2]}, counted from 0")
    factors = _class_factors(logits, class_weights)
    return _FocalSums.apply(logits, classes, factors, float(alpha), float(gamma))  # type: ignore[no-untyped-call]


def soft_focal_loss(
    logits: Float[Tensor, "b a c"],
    targets: Float[Tensor, "b a c"],
    *,
    ignored: Bool[Tensor, "b a"] | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    class_weights: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, " b"]:
    """Focal loss for targets between 0 and 1 (smoothed or mixed labels), summed for each image.

    As torchvision's ``sigmoid_focal_loss``, with target t: the cross-entropy, times (p (1 - t) + (1 - p) t) ** gamma, times
    t alpha + (1 - t)(1 - alpha). The targets get no gradient. The other arguments are those of :func:`focal_loss`.

    >>> soft_focal_loss(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.5]]]), alpha=0.5) / math.log(2)
    tensor([0.2500])
    """
    _check_focal(logits, targets, alpha, gamma)
    ignored = logits.new_zeros(logits.shape[:2], dtype=torch.bool) if ignored is None else ignored
    factors = _class_factors(logits, class_weights)
    num_rows = _rows_at_once(len(logits) * logits.shape[2], logits.device)
    pieces = (torch.split(values, num_rows, dim=1) for values in (logits, targets.detach(), ignored))
    sums = factors.new_zeros(len(logits))
    for piece in zip(*pieces, strict=True):
        sums = sums + checkpoint(
            _soft_sums, *piece, factors, alpha, gamma, use_reentrant=False, preserve_rng_state=False
        )
    return sums


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
    rows = functional.smooth_l1_loss(_widened(deltas), _widened(targets), reduction="none", beta=beta).sum(dim=1)
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


def image_divisors(num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Each image by its own positives, at least 1, then the mean over images: torchvision's rule.

    >>> image_divisors(torch.tensor([3, 0]))
    tensor([6., 2.])
    """
    return len(num_positives) * num_positives.clamp(min=1).float()


def batch_divisors(num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The batch by its positives, at least 1 for each image: mmdetection's rule, over the batch of all processes.

    Where ``torch.distributed`` is initialised, the count is the mean over processes, and every process has to call this:
    DistributedDataParallel's mean of gradients is then the gradient of the whole batch on one process.

    >>> batch_divisors(torch.tensor([3, 0]))
    tensor([4., 4.])
    """
    return mean_over_processes(num_positives.clamp(min=1).sum().float()).expand(len(num_positives))


class MovingDivisors(nn.Module):
    """A moving average of the batches' positives, which one odd batch hardly moves: detectron2's rule.

    average <- momentum * average + (1 - momentum) * max(positives, 1), before it divides. It is a buffer, so checkpoints
    keep it. Each call in training is a step: call once and divide all losses by the answer. In evaluation it stays.
    With several processes as :func:`batch_divisors`.

    >>> MovingDivisors()(torch.tensor([40, 10]))
    tensor([95., 95.])
    """

    average: Tensor

    def __init__(self, *, initial: float = 100.0, momentum: float = 0.9) -> None:
        super().__init__()
        if not (initial > 0 and 0 <= momentum < 1):
            raise ValueError(f"need initial > 0 and 0 <= momentum < 1, got {initial=}, {momentum=}")
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(float(initial)))

    def forward(self, num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        """One divisor for all images of the batch."""
        if self.training:
            positives = mean_over_processes(num_positives.sum().clamp(min=1).to(self.average.dtype))
            self.average.lerp_(positives, 1 - self.momentum)
        return self.average.clone().expand(len(num_positives))


def mean_over_processes(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean of a number over the processes of ``torch.distributed``, or the number itself where there are none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


class _FocalSums(torch.autograd.Function):
    """The gradient is made along with the sums, and backward only scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, factors: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, classes, factors)
        ctx.alpha, ctx.gamma = alpha, gamma
        at_once = ctx.needs_input_grad[0] and not _is_half(logits)  # half: scaled before it is rounded, or it vanishes
        sums, gradient = _focal_sums(logits, classes, factors.expand(len(logits), -1), alpha, gamma, at_once)
        ctx.gradient = gradient if at_once else None
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None  # given away once: autograd may add to it in place
        if gradient is None:
            logits, classes, factors = ctx.saved_tensors
            gradient = _focal_sums(logits, classes, scales[:, None] * factors, ctx.alpha, ctx.gamma, True)[1]
        else:
            for image, scale in zip(gradient, scales, strict=True):
                image.mul_(scale)
        return gradient, None, None, None, None


@torch.library.custom_op(
    "detect::focal_sums",  # one operator to torch.compile, which makes nothing faster of it
    mutates_args=(),
    schema="(Tensor logits, Tensor classes, Tensor weights, float alpha, float gamma, bool slopes) -> (Tensor, Tensor)",
)
def _focal_sums(
    logits: Tensor, classes: Tensor, weights: Tensor, alpha: float, gamma: float, slopes: bool
) -> tuple[Tensor, Tensor]:
    """Each image's sum, and the slopes in the logits, which are empty where none are asked for."""
    gradient = logits.new_empty(logits.shape if slopes else (0,))
    sums = weights.new_zeros(len(logits))
    for image in range(len(logits)):
        of_image = gradient[image] if slopes else None
        sums[image] = _sum_image(logits[image], classes[image], weights[image], alpha, gamma, of_image)
    return sums, gradient


@_focal_sums.register_fake
def _shapes_of_focal_sums(
    logits: Tensor, _classes: Tensor, weights: Tensor, _alpha: float, _gamma: float, slopes: bool
) -> tuple[Tensor, Tensor]:
    return weights.new_empty(len(logits)), logits.new_empty(logits.shape if slopes else (0,))


def _sum_image(
    logits: Tensor, classes: Tensor, weights: Tensor, alpha: float, gamma: float, gradient: Tensor | None
) -> Tensor:
    """Every logit as a negative, but for ignored rows and the few positives, which follow by themselves."""
    num_rows = _rows_at_once(logits.shape[1], logits.device)
    starts = range(0, len(logits), num_rows)
    positive, ignored = (classes >= 0).nonzero()[:, 0], (classes == IGNORE).nonzero()[:, 0]
    apart = (_split_rows(rows, num_rows, len(starts)) for rows in (positive, ignored))
    work = weights.new_empty(3, min(num_rows, len(logits)), logits.shape[1])
    total = weights.new_zeros(())
    for start, of_positive, of_ignored in zip(starts, *apart, strict=True):
        chunk = logits[start : start + num_rows].to(weights.dtype)
        p, cost, scratch = work[:, : len(chunk)]
        torch.sigmoid(chunk, out=p)
        torch.ops.aten.softplus(chunk, out=cost)
        for buffer in (p, cost):
            buffer[of_positive, classes[start + of_positive]] = 0
            buffer.index_fill_(0, of_ignored, 0)
        slopes = None if gradient is None else gradient[start : start + num_rows]
        total += _sum_negatives(p, cost, scratch, (1 - alpha) * weights, gamma, slopes)
    entries = positive, classes[positive]
    mirrored = -logits[entries].to(weights.dtype)  # a positive costs what a negative with the opposite logit does
    p, cost, slopes = mirrored.sigmoid(), functional.softplus(mirrored), torch.empty_like(mirrored)
    of_entries = alpha * weights.expand(logits.shape[1])[entries[1]]
    total += _sum_negatives(p, cost, slopes, of_entries, gamma, slopes)
    if gradient is not None:
        gradient[entries] = -slopes.to(gradient.dtype)
    return total


def _split_rows(rows: Tensor, num_rows: int, num_chunks: int) -> tuple[Tensor, ...]:
    """Sorted rows by the chunk they are in, counted from its start."""
    counts = torch.bincount(rows // num_rows, minlength=num_chunks)
    return torch.split(rows % num_rows, counts.tolist())


def _sum_negatives(
    p: Tensor, cost: Tensor, scratch: Tensor, weights: Tensor, gamma: float, slopes: Tensor | None
) -> Tensor:
    """The sum of weight * p**gamma * cost, where cost = -ln(1 - p), and its slopes in the logits; p is used up.

    d p**gamma = gamma p**gamma (1 - p) and d cost = p: the slope is p**gamma * (weight p + gamma weight cost (1 - p)).
    """
    if slopes is not None:
        torch.mul(cost, gamma * weights, out=scratch)
        torch.lerp(scratch, weights, p, out=scratch)
    p.pow_(gamma)
    if slopes is not None:
        torch.mul(scratch, p, out=slopes)
    if len(weights) == 1:
        return weights[0] * torch.dot(p.view(-1), cost.view(-1))
    return torch.dot(p.mul_(weights).view(-1), cost.view(-1))


def _soft_sums(logits: Tensor, targets: Tensor, ignored: Tensor, factors: Tensor, alpha: float, gamma: float) -> Tensor:
    logits, positive = _widened(logits).masked_fill(ignored[..., None], 0.0), targets.to(factors.dtype)
    negative = 1 - positive
    cost = positive * functional.softplus(-logits) + negative * functional.softplus(logits)
    miss = positive * torch.sigmoid(-logits) + negative * torch.sigmoid(logits)
    miss = miss.clamp(min=torch.finfo(miss.dtype).tiny)  # the slope of 0**gamma is infinite for gamma < 1
    balance = positive * alpha + negative * (1 - alpha)
    return (factors * balance * miss**gamma * cost).masked_fill(ignored[..., None], 0.0).sum(dim=(1, 2))


def _rows_at_once(num_columns: int, device: torch.device) -> int:
    return max(1, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS_ELSEWHERE) // max(1, num_columns))


def _class_factors(logits: Tensor, class_weights: Tensor | None) -> Tensor:
    ones = torch.ones(1, dtype=_wide(logits), device=logits.device)
    return ones if class_weights is None else class_weights.detach().to(ones)


def _check_focal(logits: Tensor, others: Tensor, alpha: float, gamma: float) -> None:
    if not (0 <= alpha <= 1 and gamma >= 0):
        raise ValueError(f"need 0 <= alpha <= 1 and gamma >= 0, got {alpha=}, {gamma=}")
    if others.shape != logits.shape[: others.ndim]:
        raise ValueError(f"logits are {tuple(logits.shape)}, what they should say is {tuple(others.shape)}")


def _iou_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    intersection = intersection_area(boxes, targets)
    union = box_area(boxes) + box_area(targets) - intersection
    return intersection / (union + EPS), union


def _hull_wh(boxes: Tensor, targets: Tensor) -> Tensor:
    """Width and height of the smallest box around both."""
    boxes, targets = _widened(boxes), _widened(targets)
    return torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])


def _center_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """The distance of the centres over the diagonal of the box around both, squared."""
    shift = _widened(boxes) - _widened(targets)
    shift = (shift[:, :2] + shift[:, 2:]) / 2
    return shift.square().sum(dim=1) / (_hull_wh(boxes, targets).square().sum(dim=1) + EPS)


def _diagonal_angle(boxes: Tensor) -> Tensor:
    width, height = (_widened(boxes)[:, 2:] - _widened(boxes)[:, :2]).unbind(dim=1)
    return torch.atan2(width, height.clamp(min=EPS))  # at (0, 0) older torch has no slope (pytorch#166787)


def _weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows if weights is None else rows * weights


def _is_half(values: Tensor) -> bool:
    return values.dtype.itemsize < 4


def _wide(values: Tensor) -> torch.dtype:
    return torch.float32 if _is_half(values) else values.dtype


def _widened(values: Tensor) -> Tensor:
    return values.to(_wide(values))
