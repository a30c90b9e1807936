"""Sigmoid focal losses, one sum for each image, with classes or box quality as targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from detect.conventions import BACKGROUND, IGNORE
from detect.ops.boxes import widened

ALPHA_OFF = -1  # torchvision's sign that positives and negatives weigh the same
CHUNK_ELEMENTS = {"cpu": 2**20}  # three buffers of this size fit a cache; smaller ones leave threads waiting
CHUNK_ELEMENTS_ELSEWHERE = 2**24  # fewer kernel launches

Logits = Float[Tensor, "b a c"]
AnchorFactors = Float[Tensor, "b a"]
Sums = Float[Tensor, " b"]


def focal_loss(
    logits: Logits,
    classes: Int64[Tensor, "b a"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    positive_weights: AnchorFactors | None = None,
) -> Sums:
    """Sigmoid focal loss (Lin et al. 2017, section 3.2), summed over the anchors and classes of each image.

    An anchor of class k has target 1 for k and 0 for the other classes; background has 0 for all. An anchor with ``IGNORE``
    adds nothing and gets no gradient. The gradient is computed with the sums, chunk by chunk, in little more memory than its
    own. ``torch.compile`` sees one operator.

    >>> import math
    >>> from detect.conventions import BACKGROUND
    >>> logits = torch.zeros(1, 3, 2)  # p = 1/2 everywhere: 1/4 ln 2 times 1/4 for the positive, 3/4 for each negative
    >>> focal_loss(logits, torch.tensor([[1, BACKGROUND, IGNORE]])) / math.log(2)
    tensor([0.6250])

    Args:
        logits: before the sigmoid.
        classes: an index from 0, ``BACKGROUND`` or ``IGNORE`` for each anchor.
        alpha: weight of positives, from 0 to 1; negatives weigh 1 - alpha. -1, as in torchvision: both weigh 1.
        gamma: exponent of 1 - p of the right answer, at least 0; 0 leaves the cross-entropy.
        positive_weights: a factor for the target 1 of each anchor that has a class; the others are not read.

    Raises:
        ValueError: alpha or gamma is out of range, shapes differ, or (on the CPU) a class is out of range.
    """
    _check_focal(logits, classes, logits.shape[:2], alpha, gamma)
    if classes.device.type == "cpu" and classes.numel() > 0 and not torch.compiler.is_compiling():
        _check_classes(classes, logits.shape[2])  # on a GPU, indexing asserts it
    positive, negative = (1.0, 1.0) if alpha == ALPHA_OFF else (alpha, 1 - alpha)
    one, factors = widened(logits.new_ones(1)), _positive_factors(logits, classes, positive_weights)
    return _FocalSums.apply(logits, classes, negative * one, positive * factors, float(gamma))  # type: ignore[no-untyped-call]


def quality_focal_loss(
    logits: Logits,
    classes: Int64[Tensor, "b a"],
    *,
    quality: Float[Tensor, "b a"],
    gamma: float = 2.0,
    positive_weights: AnchorFactors | None = None,
) -> Sums:
    """Quality focal loss (Li et al. 2020, "Generalized Focal Loss", equation 6), summed for each image.

    An anchor of class k has the target q for k instead of 1: its quality from 0 to 1, such as the IoU of its predicted box
    with the instance, so that scores rank boxes by their accuracy. The cross-entropy is multiplied by abs(q - p)**gamma.
    Positives and negatives are not balanced. Only the quality of positives is read, and it gets no gradient. The other
    arguments, ignored anchors, errors and memory are as in :func:`focal_loss`.

    >>> import math
    >>> from detect.conventions import BACKGROUND
    >>> logits, classes = torch.zeros(1, 2, 1), torch.tensor([[0, BACKGROUND]])  # p = 1/2
    >>> quality_focal_loss(logits, classes, quality=torch.tensor([[1.0, 0.0]])) / math.log(2)  # 1/4 ln 2, twice
    tensor([0.5000])
    >>> quality_focal_loss(logits, classes, quality=torch.tensor([[0.5, 0.0]])) / math.log(2)  # the first equals its target
    tensor([0.2500])
    """
    _check_focal(logits, quality, logits.shape[:2], 0.0, gamma)
    sums = focal_loss(logits, classes, alpha=0.0, gamma=gamma)  # negatives only
    image, anchor = (classes >= 0).nonzero(as_tuple=True)
    own = widened(logits[image, anchor, classes[image, anchor]])
    target = quality.detach()[image, anchor].to(own)
    miss = (target - own.sigmoid()).abs()
    miss = miss.clamp(min=torch.finfo(miss.dtype).tiny)  # the gradient of 0**gamma is infinite for gamma < 1
    cost = miss**gamma * functional.binary_cross_entropy_with_logits(own, target, reduction="none")
    factors = _positive_factors(logits, classes, positive_weights)
    return sums.index_add(0, image, factors.expand(classes.shape)[image, anchor] * cost)


class _FocalSums(torch.autograd.Function):
    """Computes the gradient with the sums; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, negative: Tensor, positive: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, classes, negative, positive)
        ctx.gamma = gamma
        half = logits.dtype.itemsize < 4  # scaled in backward before it is rounded, or it would vanish
        at_once = ctx.needs_input_grad[0] and not half
        weights = (each.expand(len(logits), -1) for each in (negative, positive))
        sums, gradient = _focal_sums(logits, classes, *weights, gamma, at_once)
        ctx.gradient = gradient if at_once else None
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None  # used once: autograd may add to it in place
        if gradient is None:
            logits, classes, *weights = ctx.saved_tensors
            scaled = (scales[:, None] * each for each in weights)
            gradient = _focal_sums(logits, classes, *scaled, ctx.gamma, True)[1]
        else:
            for image, scale in zip(gradient, scales, strict=True):
                image.mul_(scale)
        return gradient, None, None, None, None


@torch.library.custom_op(
    "detect::focal_sums",  # torch.compile cannot make it faster, so it sees one operator
    mutates_args=(),
    schema="(Tensor logits, Tensor classes, Tensor negative, Tensor positive, float gamma, bool slopes) -> (Tensor, Tensor)",
)
def _focal_sums(
    logits: Tensor, classes: Tensor, negative: Tensor, positive: Tensor, gamma: float, slopes: bool
) -> tuple[Tensor, Tensor]:
    """The sum of each image and, with ``slopes``, the gradient in the logits, else an empty tensor.

    ``negative`` has a weight for each image, ``positive`` for each image and anchor, or one for each image.
    """
    gradient = logits.new_empty(logits.shape if slopes else (0,))
    sums = negative.new_zeros(len(logits))
    num_rows = _rows_at_once(logits.shape[2], logits.device)
    learned, ignored = _rows_of_chunks(torch.stack([classes >= 0, classes == IGNORE]), num_rows)
    for image in range(len(logits)):
        of_image = gradient[image] if slopes else None
        rows = learned[image], ignored[image]
        values = logits[image], classes[image], negative[image], positive[image]
        sums[image] = _sum_image(*values, gamma, of_image, rows=rows, num_rows=num_rows)
    return sums, gradient


@_focal_sums.register_fake
def _shapes_of_focal_sums(
    logits: Tensor, _classes: Tensor, negative: Tensor, _positive: Tensor, _gamma: float, slopes: bool
) -> tuple[Tensor, Tensor]:
    return negative.new_empty(len(logits)), logits.new_empty(logits.shape if slopes else (0,))


def _sum_image(
    logits: Tensor,
    classes: Tensor,
    negative: Tensor,
    positive: Tensor,
    gamma: float,
    gradient: Tensor | None,
    *,
    rows: tuple[Sequence[Tensor], Sequence[Tensor]],
    num_rows: int,
) -> Tensor:
    """Sum all logits as negatives, except ignored rows and the few positives, which are added at the end.

    ``rows`` are the positive and the ignored rows of each chunk of ``num_rows``, counted from the start of the chunk.
    """
    starts = range(0, max(1, len(logits)), num_rows)
    learned = torch.cat([start + of_chunk for start, of_chunk in zip(starts, rows[0], strict=True)])
    work = negative.new_empty(3, min(num_rows, len(logits)), logits.shape[1])
    total = negative.new_zeros(())
    for start, of_positive, of_ignored in zip(starts, *rows, strict=True):
        chunk = logits[start : start + num_rows].to(negative.dtype)
        p, cost, scratch = work[:, : len(chunk)]
        torch.sigmoid(chunk, out=p)
        torch.ops.aten.softplus(chunk, out=cost)
        for buffer in (p, cost):
            buffer[of_positive, classes[start + of_positive]] = 0
            buffer.index_fill_(0, of_ignored, 0)
        slopes = None if gradient is None else gradient[start : start + num_rows]
        total += _sum_negatives(p, cost, scratch, negative, gamma, slopes)
    entries = learned, classes[learned]
    mirrored = -logits[entries].to(negative.dtype)  # a positive costs the same as a negative with the opposite logit
    p, cost, slopes = mirrored.sigmoid(), functional.softplus(mirrored), torch.empty_like(mirrored)
    total += _sum_negatives(p, cost, slopes, positive.expand(len(logits))[learned], gamma, slopes)
    if gradient is not None:
        gradient[entries] = -slopes.to(gradient.dtype)
    return total


def _rows_of_chunks(marks: Bool[Tensor, "k b a"], num_rows: int) -> list[list[tuple[Tensor, ...]]]:
    """For each mark and image the marked rows of each chunk, counted from its start; waits for the device twice."""
    num_marks, num_images, num_anchors = marks.shape
    num_chunks = max(1, -(-num_anchors // num_rows))
    mark, image, row = marks.nonzero(as_tuple=True)
    part = (mark * num_images + image) * num_chunks + row // num_rows
    counts = part.new_zeros(num_marks * num_images * num_chunks).index_add_(0, part, torch.ones_like(part))
    pieces = iter(torch.split(row % num_rows, counts.tolist()))
    return [[tuple(islice(pieces, num_chunks)) for _ in range(num_images)] for _ in range(num_marks)]


def _sum_negatives(
    p: Tensor, cost: Tensor, scratch: Tensor, weights: Tensor, gamma: float, slopes: Tensor | None
) -> Tensor:
    """The sum of weight * p**gamma * cost with cost = -ln(1 - p); writes the gradient to ``slopes`` and overwrites p.

    Since d p**gamma = gamma p**gamma (1 - p) and d cost = p, the slope is p**gamma (weight p + gamma weight cost (1 - p)).
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


def _rows_at_once(num_columns: int, device: torch.device) -> int:
    return max(1, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS_ELSEWHERE) // max(1, num_columns))


def _positive_factors(logits: Tensor, classes: Tensor, positive_weights: AnchorFactors | None) -> Tensor:
    """The weight of each anchor, or a single 1."""
    ones = widened(logits.new_ones(1))
    if positive_weights is None:
        return ones
    if positive_weights.shape != classes.shape:
        got = tuple(positive_weights.shape)
        raise ValueError(f"need one positive weight for each of {tuple(classes.shape)} anchors, got {got}")
    return positive_weights.detach().to(ones)


def _check_focal(logits: Tensor, others: Tensor, wanted: torch.Size, alpha: float, gamma: float) -> None:
    if not ((0 <= alpha <= 1 or alpha == ALPHA_OFF) and gamma >= 0):
        raise ValueError(f"need 0 <= alpha <= 1, or -1 for no alpha, and gamma >= 0, got {alpha=}, {gamma=}")
    if others.shape != wanted:
        raise ValueError(f"logits are {tuple(logits.shape)}, their targets are {tuple(others.shape)}")


def _check_classes(classes: Tensor, num_classes: int) -> None:
    least, largest = (int(each) for each in classes.aminmax())
    if largest >= num_classes:
        raise ValueError(f"class {largest} is out of range: the logits have classes 0 to {num_classes - 1}")
    if least < IGNORE:
        raise ValueError(
            f"class {least} is out of range: below 0 are only {BACKGROUND} (background) and {IGNORE} (ignored)"
        )
