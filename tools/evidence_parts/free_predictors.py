"""Free predictors: among those of a cell, the one that predicts an instance best learns it (Redmon et al. 2016, 2.2)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import level_hw
from detect.anchors.generator import AnchorGenerator, GridAnchors
from detect.anchors.instances import ResizedInstances
from detect.conventions import BACKGROUND, IGNORE
from detect.heads.criterion import ImageTargets, RetinaNetCriterion, RetinaNetLosses
from detect.heads.retinanet import HeadOutput
from detect.ops.boxes import pairwise_iou
from detect.ops.matcher import ignore_regions

PRIOR_STRIDES = 2.0  # the side of a prior: nothing is learned from data
IGNORED_IOU = 0.5  # Redmon and Farhadi 2018, section 2.1


def free_priors(strides: Sequence[int], per_cell: int, **fields: Any) -> AnchorSet:
    """The same square for all predictors of a level.

    >>> [level.shapes for level in free_priors((4, 8), 2).levels]
    [[(8.0, 8.0), (8.0, 8.0)], [(16.0, 16.0), (16.0, 16.0)]]
    """
    sides = [PRIOR_STRIDES * stride for stride in strides]
    return AnchorSet.of([[(side, side)] * per_cell for side in sides], strides=strides, **fields)


class FreePredictorCriterion(RetinaNetCriterion):
    """The base criterion, but matching uses the predicted boxes instead of the priors.

    An instance belongs to the level whose prior's side is nearest to the root of its area, in logs, and there to the cell
    that holds its centre. The cell's predictor with the highest IoU is responsible. Where several instances share a cell,
    pairs are taken by falling IoU; an instance for which no predictor is left is not learned. Other predictors are
    background, or ignored if they overlap an instance by ``IGNORED_IOU``. The arguments are those of the base.
    """

    def forward(self, output: HeadOutput, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> RetinaNetLosses:
        """The losses of a batch."""
        with torch.no_grad():
            self._predicted = self.coder.decode(output.deltas, anchors.boxes)
        return super().forward(output, anchors, targets)

    @torch.no_grad()
    def match_checked(self, anchors: GridAnchors, targets: Sequence[ImageTargets]) -> Int64[Tensor, "b a"]:
        """For each image and predictor the row of an instance, ``BACKGROUND`` or ``IGNORE``."""
        rows = []
        for boxes, image in zip(self._predicted, targets, strict=True):
            matches = responsible(boxes, anchors, image.boxes)
            rows.append(matches if image.ignored is None else ignore_regions(matches, boxes, image.ignored))
        return torch.stack(rows)


def responsible(
    predicted: Float[Tensor, "a 4"], anchors: GridAnchors, boxes: Float[Tensor, "n 4"]
) -> Int64[Tensor, " a"]:
    """For each predictor of an image the row of the instance that it learns, ``BACKGROUND`` or ``IGNORE``."""
    matches = torch.full((len(predicted),), BACKGROUND, device=predicted.device)
    if not len(boxes):
        return matches
    iou = pairwise_iou(predicted, boxes)
    matches[iou.max(dim=1).values >= IGNORED_IOU] = IGNORE
    own = predictors_of(anchors, boxes)
    pairs = [
        (-overlap, row, predictor)
        for row, predictors in enumerate(own)
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


def predictors_of(anchors: GridAnchors, boxes: Float[Tensor, "n 4"]) -> list[list[int]]:
    """The predictors of each instance's cell, as rows of the head's output."""
    starts = [0]
    for level in anchors.level_grids:
        starts.append(starts[-1] + level.num_anchors)
    own = []
    for x0, y0, x1, y1 in boxes.tolist():
        size = math.sqrt(max((x1 - x0) * (y1 - y0), 1e-6))
        far = [abs(math.log(size / (PRIOR_STRIDES * level.stride_xy[0]))) for level in anchors.level_grids]
        nearest = far.index(min(far))
        level = anchors.level_grids[nearest]
        column = min(max(int((x0 + x1) / 2 / level.stride_xy[0]), 0), level.width - 1)
        row = min(max(int((y0 + y1) / 2 / level.stride_xy[1]), 0), level.height - 1)
        per_cell = len(level.cell_boxes)
        first = starts[nearest] + (row * level.width + column) * per_cell
        own.append(list(range(first, first + per_cell)))
    return own


def positives_per_instance(instances: ResizedInstances, anchors: AnchorSet) -> float:
    """Mean number of predictors per instance: 1, less where more instances than predictors share a cell."""
    grid, image_rows = AnchorGenerator(anchors), instances.dataset.instances.image_rows
    learned = 0
    for image in np.unique(image_rows).tolist():
        rows = np.flatnonzero(image_rows == image)
        width, height = instances.canvas_wh[rows[0]].tolist()
        on_grid = grid.generate(level_hw(grid, (height, width)))
        cells = Counter(map(tuple, predictors_of(on_grid, torch.from_numpy(instances.boxes[rows]))))
        learned += sum(min(count, len(predictors)) for predictors, count in cells.items())
    return learned / max(len(instances), 1)
