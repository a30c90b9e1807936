"""Free predictors: among those of a cell, the one that predicts an instance best learns it (Redmon et al. 2016, 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detect.anchors.anchor_set import AnchorSet
from detect.conventions import BACKGROUND, IGNORE
from detect.heads.prediction_matchers import needed
from detect.ops.boxes import matched_iou, pairwise_iou
from detect.ops.grid_matcher import AnchorPairs, LevelGrid
from detect.ops.matcher import Predictions

PRIOR_STRIDES = 2.0  # the side of a prior: nothing is learned from data
IGNORED_IOU = 0.5  # Redmon and Farhadi 2018, section 2.1


def free_priors(strides: Sequence[int], per_cell: int, **fields: Any) -> AnchorSet:
    """The same square for all predictors of a level.

    >>> [level.shapes for level in free_priors((4, 8), 2).levels]
    [[(8.0, 8.0), (8.0, 8.0)], [(16.0, 16.0), (16.0, 16.0)]]
    """
    sides = [PRIOR_STRIDES * stride for stride in strides]
    return AnchorSet.of([[(side, side)] * per_cell for side in sides], strides=strides, **fields)


class ResponsiblePredictor:
    """A matcher by the predicted boxes: the predictor of an instance's cell that overlaps it most learns it.

    An instance belongs to the level whose prior's side is nearest to the root of its area, in logs, and there to the cell
    that holds its centre. Where several instances share a cell, pairs are taken by falling IoU; an instance for which no
    predictor is left is not learned. Other predictors are background, or ignored if they overlap an instance by
    ``IGNORED_IOU``.
    """

    uses_predictions = True

    def match(
        self, anchors: Sequence[LevelGrid], boxes: Float[Tensor, "n 4"], predictions: Predictions | None = None, /
    ) -> Int64[Tensor, " a"]:
        """For each predictor the row of the instance that it learns, ``BACKGROUND`` or ``IGNORE``."""
        predicted = needed(predictions).boxes
        matches = torch.full((len(predicted),), BACKGROUND, device=predicted.device)
        if not len(boxes):
            return matches
        iou = pairwise_iou(predicted, boxes)
        matches[iou.max(dim=1).values >= IGNORED_IOU] = IGNORE
        pairs = [
            (-overlap, row, predictor)
            for row, predictors in enumerate(predictors_of(anchors, boxes))
            for predictor, overlap in zip(predictors, iou[predictors, row].tolist(), strict=True)
        ]
        learned: set[int] = set()
        taken: set[int] = set()
        for _, row, predictor in sorted(pairs):
            if row not in learned and predictor not in taken:
                matches[predictor] = row
                learned.add(row)
                taken.add(predictor)
        return matches

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Float[Tensor, "n 4"], predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The predictors that learn an instance."""
        matches = self.match(anchors, boxes, predictions)
        rows = (matches >= 0).nonzero()[:, 0]
        every, own = torch.cat([level.boxes() for level in anchors])[rows], matches[rows]
        return AnchorPairs(rows, every, own, matched_iou(needed(predictions).boxes[rows], boxes[own]))


def predictors_of(anchors: Sequence[LevelGrid], boxes: Float[Tensor, "n 4"]) -> list[list[int]]:
    """The predictors of each instance's cell, as rows of the head's output."""
    starts = [0]
    for level in anchors:
        starts.append(starts[-1] + level.num_anchors)
    own = []
    for x0, y0, x1, y1 in boxes.tolist():
        size = math.sqrt(max((x1 - x0) * (y1 - y0), 1e-6))
        far = [abs(math.log(size / (PRIOR_STRIDES * level.stride_xy[0]))) for level in anchors]
        nearest = far.index(min(far))
        level = anchors[nearest]
        column = min(max(int((x0 + x1) / 2 / level.stride_xy[0]), 0), level.width - 1)
        row = min(max(int((y0 + y1) / 2 / level.stride_xy[1]), 0), level.height - 1)
        per_cell = len(level.cell_boxes)
        first = starts[nearest] + (row * level.width + column) * per_cell
        own.append(list(range(first, first + per_cell)))
    return own
