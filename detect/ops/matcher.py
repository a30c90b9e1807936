"""Which instance each anchor learns: maximum IoU, ATSS, and regions that are ignored.

A match is the row of an instance, ``BACKGROUND`` or ``IGNORE``. Boxes are (x0, y0, x1, y1) in continuous pixels. Without
instances every anchor is background. An instance that overlaps no anchor makes none positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detect.conventions import BACKGROUND, IGNORE
from detect.ops.boxes import matched_iou, pairwise_ioa, pairwise_iou
from detect.ops.grid_matcher import AnchorPairs, GridPairs, LevelGrid, nearest_anchors

CENTER_MARGIN = 0.01  # pixels that a centre is inside a box, in the code of ATSS and TOOD
CHUNK_PAIRS = 2**22  # pairs of anchor and instance compared at once
DENSE_PAIRS = 2**25  # pairs up to which an accelerator compares all: for the lists of the grid it waits again and again

Boxes = Float[Tensor, "n 4"]
Matches = Int64[Tensor, " a"]
Rows = Int64[Tensor, " m"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network predicts for the anchors of one image, by which some matchers choose."""

    logits: Float[Tensor, "a c"]
    boxes: Float[Tensor, "a 4"]
    classes: Rows
    """The class of each instance: a column of the logits."""


@runtime_checkable
class Matcher(Protocol):
    """A rule that gives each anchor of a pyramid an instance."""

    @property
    def uses_predictions(self) -> bool:
        """Whether the rule needs predictions; others do not read them."""

    def match(self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /) -> Matches:
        """For each anchor the row of its instance, ``BACKGROUND`` or ``IGNORE``."""

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The pairs good enough for a positive anchor, before each anchor is given to one instance."""


@runtime_checkable
class SoftMatcher(Matcher, Protocol):
    """A rule that also says how well each positive anchor does: the target of its score."""

    def match_softly(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, predictions: Predictions | None = None, /
    ) -> tuple[Matches, Float[Tensor, " a"]]:
        """The matches, and a number from 0 to 1 for each positive anchor, 0 for the others."""


@dataclass(frozen=True, kw_only=True)
class MaxIoU:
    """An anchor takes the instance that it overlaps most (Lin et al. 2017, section 4.1).

    An anchor is positive from ``fg_iou_thresh`` on, background below ``bg_iou_thresh``, and ignored between the two.

    >>> level = LevelGrid(2, 3, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> MaxIoU().match([level], torch.tensor([[8.0, 0.0, 16.0, 9.0], [0.0, 8.0, 5.0, 16.0]]))
    tensor([-1,  0, -1,  1, -1, -1])

    Args:
        allow_low_quality_matches: also make the best anchors of every instance positive, all that tie, if their IoU is
            above 0.
        low_quality_mode: the instance that such an anchor takes. ``"own"``, as in torchvision and detectron2: the one that
            it overlaps most. ``"forced"``, as in mmdetection: the one whose best it is; the last of several.

    Raises:
        ValueError: the thresholds are out of order, or the mode is unknown.
    """

    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.4
    allow_low_quality_matches: bool = True
    low_quality_mode: str = "own"
    uses_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.bg_iou_thresh <= self.fg_iou_thresh <= 1:
            raise ValueError(
                f"need 0 < bg_iou_thresh <= fg_iou_thresh <= 1, got {self.bg_iou_thresh} and {self.fg_iou_thresh}"
            )
        if self.low_quality_mode not in ("own", "forced"):
            raise ValueError(f"low_quality_mode is 'own' or 'forced', got {self.low_quality_mode!r}")

    def match(self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /) -> Matches:
        """The same as :func:`match_boxes` on all anchors, on the CPU without comparing all pairs."""
        if boxes.device.type != "cpu" and len(boxes) * sum(level.num_anchors for level in anchors) <= DENSE_PAIRS:
            every = torch.cat([level.boxes() for level in anchors])
            return match_boxes(every, boxes.to(torch.promote_types(boxes.dtype, every.dtype)), matcher=self)
        grid = GridPairs(anchors)
        boxes = boxes.to(torch.promote_types(boxes.dtype, grid.boxes.dtype))
        close = grid.reaching(boxes, self.bg_iou_thresh)
        best, instance = best_per_anchor(close, grid.num_anchors)
        matches = self._grade(best, instance)
        if not self.allow_low_quality_matches or not len(boxes):
            return matches
        pairs = grid.best(boxes, close)
        unknown = best[pairs.anchors] == 0
        instance[pairs.anchors[unknown]] = _best_instance(pairs.anchor_boxes[unknown], boxes)
        last = torch.full_like(matches, -1).scatter_reduce_(0, pairs.anchors, pairs.instances, "amax")
        return self._with_low_quality(matches, instance, last)

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        grid = GridPairs(anchors)
        return grid.reaching(boxes.to(torch.promote_types(boxes.dtype, grid.boxes.dtype)), self.fg_iou_thresh)

    def _grade(self, best: Float[Tensor, " a"], instance: Int64[Tensor, " a"]) -> Int64[Tensor, " a"]:
        matches = torch.where(best < self.fg_iou_thresh, IGNORE, instance)
        return torch.where(best < self.bg_iou_thresh, BACKGROUND, matches)

    def _with_low_quality(self, matches: Matches, own: Rows, last: Rows) -> Matches:
        """The matches, and the anchors that are the best of an instance, ``last`` if of several, -1 if of none.

        ``own`` is the instance that each anchor overlaps most.
        """
        return torch.where(last >= 0, own if self.low_quality_mode == "own" else last, matches)


@dataclass(frozen=True)
class Atss:
    """Adaptive training sample selection (Zhang et al. 2020, section 3.2).

    The candidates of an instance are, on each level, the anchors with the nearest centres, of equals the first, found
    without the matrix of all distances: see :func:`~detect.ops.grid_matcher.nearest_anchors`. A candidate is positive if its
    IoU reaches the mean plus the standard deviation of the candidates' IoUs, and its centre lies inside the instance. An
    anchor wanted by several instances takes the one that it overlaps most.

    Args:
        num_candidates: of a level; with ``per_shape`` for each anchor of a cell, as in the authors' code, else in all, as in
            mmdetection.
    """

    num_candidates: int = 9
    per_shape: bool = True
    uses_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"need num_candidates from 1, got {self.num_candidates}")

    def match(self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /) -> Matches:
        pairs = self.foreground_pairs(anchors, boxes)
        best, instance = best_per_anchor(pairs, sum(level.num_anchors for level in anchors))
        return torch.where(best > 0, instance, BACKGROUND)

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The anchors that each instance would get if it were alone."""
        nearest, first = [], 0
        for level in anchors:
            count = self.num_candidates * (len(level.cell_boxes) if self.per_shape else 1)
            nearest.append(nearest_anchors(level, boxes, count) + first)
            first += level.num_anchors
        candidates, every = torch.cat(nearest, dim=1), torch.cat([level.boxes() for level in anchors])
        row = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(candidates)
        iou = matched_iou(every[candidates.flatten()], boxes[row.flatten()]).view_as(candidates)
        mean = iou.mean(dim=1, keepdim=True)
        deviation = ((iou - mean).square().sum(dim=1, keepdim=True) / max(iou.shape[1] - 1, 1)).sqrt()
        centers = _centers(every[candidates])
        inside = depth_inside(centers, boxes) > CENTER_MARGIN
        positive = (iou >= mean + deviation) & inside & (iou > 0)
        rows = candidates[positive]
        return AnchorPairs(rows, every[rows], row[positive], iou[positive])


def match_boxes(anchors: Float[Tensor, "a 4"], boxes: Boxes, *, matcher: MaxIoU | None = None) -> Matches:
    """Match anchors that lie on no grid by maximum IoU, some instances at a time: memory is O(a).

    No size depends on the data, so an accelerator is not waited for.

    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 22.0], [50.0, 50.0, 60.0, 60.0]])
    >>> match_boxes(anchors, torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    tensor([ 0, -2, -1])
    """
    matcher = matcher or MaxIoU()
    best = anchors.new_zeros(len(anchors))
    instance = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    best_of_instance = [anchors.new_zeros(0)]
    step = _rows_at_once(anchors)
    for start in range(0, len(boxes), step):
        iou = pairwise_iou(boxes[start : start + step], anchors)
        value, row = iou.max(dim=0)
        better = value > best  # strictly: the first of equals stays
        best, instance = torch.where(better, value, best), torch.where(better, row + start, instance)
        best_of_instance.append(iou.max(dim=1).values if len(anchors) else iou.new_zeros(len(iou)))
    matches = matcher._grade(best, instance)
    if not matcher.allow_low_quality_matches:
        return matches
    tops, last = torch.cat(best_of_instance), torch.full_like(matches, -1)
    for start in range(0, len(boxes), step):
        top = tops[start : start + step, None]
        is_best = (pairwise_iou(boxes[start : start + step], anchors) == top) & (top > 0)
        rows = torch.arange(start, start + len(is_best), device=anchors.device)[:, None]
        last = torch.maximum(last, torch.where(is_best, rows, -1).amax(dim=0))
    return matcher._with_low_quality(matches, instance, last)


def ignore_regions(matches: Matches, anchors: Float[Tensor, "a 4"], regions: Float[Tensor, "r 4"]) -> Matches:
    """Ignore background anchors if one region (crowd, unlabelled) covers at least half of their area."""
    if matches.shape != (len(anchors),):
        raise ValueError(f"{len(anchors)} anchors need one match each, got {tuple(matches.shape)}")
    covered = anchors.new_zeros(len(anchors))
    for some in torch.split(regions, _rows_at_once(anchors)):
        if len(some):
            covered = torch.maximum(covered, pairwise_ioa(anchors, some).max(dim=1).values)
    return torch.where((matches == BACKGROUND) & (covered >= 0.5), IGNORE, matches)


def best_per_anchor(pairs: AnchorPairs, num_anchors: int) -> tuple[Float[Tensor, " a"], Matches]:
    """The highest IoU of each anchor, 0 for none, and the first instance that has it."""
    best = pairs.iou.new_zeros(num_anchors).scatter_reduce_(0, pairs.anchors, pairs.iou, "amax")
    winners = pairs.iou == best[pairs.anchors]
    none = torch.iinfo(torch.int64).max
    instance = torch.full((num_anchors,), none, dtype=torch.int64, device=pairs.iou.device)
    instance.scatter_reduce_(0, pairs.anchors[winners], pairs.instances[winners], "amin")
    return best, torch.where(instance == none, 0, instance)


def perfect_predictions(anchors: Sequence[LevelGrid], boxes: Boxes) -> Predictions:
    """What the best network could predict: each anchor the smallest box around its centre, all with the same score.

    With it a matcher of predictions gives the positives that instances can get; all belong to one class.
    """
    centers = anchor_centers(anchors)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    around = torch.where(depth_inside(centers, boxes) > 0, area[:, None], torch.inf)
    predicted = boxes.new_zeros(len(centers), 4)
    if len(boxes):
        smallest, row = around.min(dim=0)
        predicted = torch.where(smallest[:, None] < torch.inf, boxes[row], predicted)
    return Predictions(boxes.new_zeros(len(centers), 1), predicted, torch.zeros_like(boxes[:, 0], dtype=torch.int64))


def anchor_centers(anchors: Sequence[LevelGrid]) -> Float[Tensor, "a 2"]:
    """The centre of each anchor of a pyramid."""
    return _centers(torch.cat([level.boxes() for level in anchors]))


def depth_inside(centers: Float[Tensor, "*#n a 2"], boxes: Boxes) -> Float[Tensor, "n a"]:
    """The distance of each centre from the nearest side of each box, negative outside."""
    x, y = centers.unbind(dim=-1)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    return torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))


def _centers(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 2"]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _best_instance(anchors: Float[Tensor, "m 4"], boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, " m"]:
    """The instance that each anchor overlaps most, the first of equals."""
    parts = [pairwise_iou(some, boxes).argmax(dim=1) for some in torch.split(anchors, _rows_at_once(boxes))]
    return torch.cat([torch.zeros(0, dtype=torch.int64, device=anchors.device), *parts])


def _rows_at_once(columns: Tensor) -> int:
    return max(1, CHUNK_PAIRS // max(len(columns), 1))
