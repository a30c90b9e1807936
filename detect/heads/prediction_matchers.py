"""Matchers that choose anchors by what the network predicts: task-aligned assignment and SimOTA.

Both compare every anchor of an image with every instance, in some ten tables of that size. Of anchors with equal values the
first are chosen, and of instances the first. An instance that no predicted box overlaps has no positive anchor in
task-aligned assignment, and in SimOTA the one that costs least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from detect.conventions import BACKGROUND
from detect.losses import ciou_loss
from detect.ops.boxes import pairwise_iou, widened
from detect.ops.grid_matcher import AnchorPairs, LevelGrid
from detect.ops.matcher import (
    CENTER_MARGIN,
    Atss,
    Boxes,
    Matcher,
    Matches,
    MaxIoU,
    Predictions,
    anchor_centers,
    depth_inside,
)

Pairwise = Float[Tensor, "n a"]
Chosen = Bool[Tensor, "n a"]

MARGINS = {"tood": CENTER_MARGIN, "yolo": 1e-9}  # pixels from which a centre is inside a box
EPS = {"tood": 1e-7, "yolo": 1e-9}  # added to the highest alignment of an instance
OUTSIDE_COST = 1e5  # of SimOTA: above every other cost, so that anchors away from the centre are chosen last
LOG_EPS = 1e-7


@dataclass(frozen=True)
class TaskAligned:
    """Task-aligned assignment (Feng et al. 2021, "TOOD", section 3.2): anchors that classify and localise an instance best.

    The alignment of an anchor with an instance is s^alpha u^beta, with its score s for the instance's class and the IoU u
    of its predicted box. The ``topk`` best anchors of an instance are positive if their centre is inside the box and their
    alignment is above 0. An anchor wanted by several instances takes the one that it overlaps most.

    >>> level = LevelGrid(1, 2, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> boxes, predicted_boxes = torch.tensor([[[0.0, 0.0, 16.0, 8.0]], [[0.0, 0.0, 9.0, 8.0]]])
    >>> predictions = Predictions(torch.zeros(2, 1), torch.cat([predicted_boxes, boxes]), classes=torch.tensor([0]))
    >>> TaskAligned(topk=1).match([level], boxes, predictions)  # the second anchor predicts the box itself
    tensor([-1,  0])

    Args:
        rule: the code that is followed. ``"tood"``, mmdetection's: all anchors of the image compete for the ``topk``
            places. ``"yolo"``, ultralytics': only anchors inside the box compete; u is the complete IoU, at least 0; an
            anchor wanted by several instances takes, of all boxes that it is inside of, the one that it overlaps most.
        min_side: with ``"yolo"``, a shorter side of a box counts as this long, in pixels, for what is inside of it.
    """

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0
    rule: str = "tood"
    min_side: float = 0.0
    uses_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rule not in MARGINS:
            raise ValueError(f"rule is 'tood' or 'yolo', got {self.rule!r}")
        if self.topk < 1 or min(self.alpha, self.beta, self.min_side) < 0:
            raise ValueError(f"need topk from 1, and alpha, beta and min_side from 0, got {self}")

    def match(self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /) -> Matches:
        """For each anchor the row of its instance, or ``BACKGROUND``."""
        return self.match_softly(anchors, boxes, predictions)[0]

    def match_softly(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /
    ) -> tuple[Matches, Float[Tensor, " a"]]:
        """The matches, and the soft target of each positive anchor (equation 4).

        That is its alignment, scaled so that the highest of an instance is the highest IoU of the instance.
        """
        inside, overlaps, alignment = self._compared(anchors, boxes, predictions)
        chosen = self._chosen(inside, alignment)
        wanted = chosen
        if self.rule == "yolo":
            wanted = torch.where(chosen.sum(dim=0) > 1, inside, chosen)
        matches = _best_instance(torch.where(wanted, overlaps, -torch.inf))
        if not len(boxes):
            return matches, alignment.new_zeros(len(matches))
        learned = matches == torch.arange(len(boxes), device=matches.device)[:, None]
        alignment, overlaps = alignment * learned, overlaps * learned
        highest = alignment.amax(dim=1, keepdim=True) + EPS[self.rule]
        return matches, (alignment * overlaps.amax(dim=1, keepdim=True) / highest).amax(dim=0)

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The anchors that each instance would get if it were alone."""
        inside, overlaps, alignment = self._compared(anchors, boxes, predictions)
        return _pairs(self._chosen(inside, alignment), overlaps, anchors)

    def _compared(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None
    ) -> tuple[Chosen, Pairwise, Pairwise]:
        """Whether each anchor's centre is inside each instance, their IoU u, and their alignment."""
        predicted = needed(predictions)
        inside = depth_inside(anchor_centers(anchors), _widened_sides(boxes, self.min_side)) > MARGINS[self.rule]
        scores = widened(predicted.logits).sigmoid().T[predicted.classes]
        if self.rule == "tood":
            overlaps = pairwise_iou(boxes, predicted.boxes)
            return inside, overlaps, scores**self.alpha * overlaps**self.beta
        overlaps = scores.new_zeros(scores.shape)
        row, anchor = inside.nonzero(as_tuple=True)
        overlaps[row, anchor] = (1 - ciou_loss(predicted.boxes[anchor], boxes[row])).clamp(min=0)
        return inside, overlaps, scores**self.alpha * overlaps**self.beta

    def _chosen(self, inside: Chosen, alignment: Pairwise) -> Chosen:
        return _first_largest(alignment, self.topk) & inside & (alignment > 0)


@dataclass(frozen=True)
class SimOta:
    """SimOTA (Ge et al. 2021, "YOLOX", section 2.1, in mmdetection's form): the anchors that an instance costs least.

    The cost of an anchor is ``class_weight`` times the cross-entropy of its scores with the instance's class, plus
    ``iou_weight`` times -ln IoU of its predicted box. Anchors with a centre inside the box and within ``radius`` strides of
    its centre come first. An instance gets as many as the IoUs of its ``topk`` best predicted boxes add up to, rounded down,
    at least 1. An anchor wanted by several instances takes the one that it costs least, of all in the image.

    >>> level = LevelGrid(1, 2, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> boxes, predicted_boxes = torch.tensor([[[0.0, 0.0, 16.0, 8.0]], [[0.0, 0.0, 9.0, 8.0]]])
    >>> predictions = Predictions(torch.zeros(2, 1), torch.cat([predicted_boxes, boxes]), classes=torch.tensor([0]))
    >>> SimOta().match([level], boxes, predictions)  # IoUs .56 and 1: one anchor
    tensor([-1,  0])
    """

    radius: float = 2.5
    topk: int = 10
    iou_weight: float = 3.0
    class_weight: float = 1.0
    uses_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.topk < 1 or self.radius <= 0 or min(self.iou_weight, self.class_weight) < 0:
            raise ValueError(f"need topk from 1, radius above 0 and weights from 0, got {self}")

    def match(self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /) -> Matches:
        """For each anchor the row of its instance, or ``BACKGROUND``."""
        chosen, cost, _ = self._chosen(anchors, boxes, predictions)
        contested = chosen.sum(dim=0) > 1
        return _best_instance(torch.where(chosen | contested, -cost, -torch.inf))

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The anchors that each instance would get if it were alone."""
        chosen, _, overlaps = self._chosen(anchors, boxes, predictions)
        return _pairs(chosen, overlaps, anchors)

    def _chosen(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None
    ) -> tuple[Chosen, Pairwise, Pairwise]:
        predicted, centers = needed(predictions), anchor_centers(anchors)
        strides = torch.cat([centers.new_tensor(level.stride_xy).expand(level.num_anchors, 2) for level in anchors])
        in_box = depth_inside(centers, boxes) > 0
        middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
        near = ((centers - middle).abs() < self.radius * strides).all(dim=-1)
        candidate = (in_box | near).any(dim=0)
        overlaps = pairwise_iou(boxes, predicted.boxes) * candidate
        logits = widened(predicted.logits)
        entropy = functional.softplus(logits).sum(dim=1) - logits.T[predicted.classes]
        cost = self.class_weight * entropy - self.iou_weight * (overlaps + LOG_EPS).log()
        cost = cost + OUTSIDE_COST * ~(in_box & near)
        counts = _sum_of_largest(overlaps, self.topk).int().clamp(min=1)
        chosen = _first_largest(torch.where(candidate, -cost, -torch.inf), counts) & candidate
        return chosen, cost, overlaps


MATCHERS: dict[str, Callable[..., Matcher]] = {
    "max_iou": MaxIoU,
    "atss": Atss,
    "task_aligned": TaskAligned,
    "simota": SimOta,
}


def needed(predictions: Predictions | None) -> Predictions:
    """The predictions; raises ValueError if there are none."""
    if predictions is None:
        raise ValueError("this matcher chooses anchors by predictions: give the head's output too")
    return predictions


def _widened_sides(boxes: Boxes, min_side: float) -> Boxes:
    if not min_side:
        return boxes
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=min_side)
    return torch.cat([middle - size / 2, middle + size / 2], dim=1)


def _first_largest(values: Pairwise, counts: int | Tensor) -> Chosen:
    """The ``counts`` largest values of each row, the first of equals."""
    if not values.numel():
        return values > 0
    most = min(int(counts) if isinstance(counts, int) else int(counts.max()), values.shape[1])
    ordered = values.topk(most, dim=1).values
    last = torch.as_tensor(counts, device=values.device).clamp(max=most).expand(len(values))[:, None]
    least = ordered.gather(1, last.long() - 1)
    above, tied = values > least, values == least
    return above | (tied & (tied.cumsum(dim=1) <= last - above.sum(dim=1, keepdim=True)))


def _sum_of_largest(values: Pairwise, count: int) -> Float[Tensor, " n"]:
    return values.topk(min(count, values.shape[1]), dim=1).values.sum(dim=1)


def _best_instance(values: Pairwise) -> Matches:
    """The instance of the highest value of each anchor, the first of equals; background where none is finite."""
    if not len(values):
        return torch.full((values.shape[1],), BACKGROUND, device=values.device)
    best, instance = values.max(dim=0)
    return torch.where(best > -torch.inf, instance, BACKGROUND)


def _pairs(chosen: Chosen, overlaps: Pairwise, anchors: Sequence[LevelGrid]) -> AnchorPairs:
    instance, anchor = chosen.nonzero(as_tuple=True)
    every = torch.cat([level.boxes() for level in anchors])
    return AnchorPairs(anchor, every[anchor], instance, overlaps[instance, anchor])
