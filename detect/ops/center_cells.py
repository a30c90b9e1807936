"""The matching of mmdetection's YOLOv3: only anchors of cells that hold a box's centre learn boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from detect.conventions import BACKGROUND, IGNORE
from detect.ops.boxes import pairwise_iou
from detect.ops.grid_matcher import AnchorPairs, GridPairs, LevelGrid
from detect.ops.matcher import Boxes, Predictions


@dataclass(frozen=True)
class CenterCells:
    """Match as mmdetection 3's GridAssigner: cells that hold the centre of any box are responsible, and no others.

    A responsible anchor takes the instance that it overlaps most, if that IoU is above ``threshold``. Then each instance in
    turn takes the responsible anchor that it overlaps most, at whatever IoU above 0; the last of several gets it. Other
    anchors above the threshold are ignored.

    >>> level = LevelGrid(1, 3, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> CenterCells().match([level], torch.tensor([[9.0, 0.0, 12.0, 3.0], [15.0, 0.0, 24.0, 8.0]]))
    tensor([-1,  0,  1])
    """

    threshold: float = 0.5
    uses_predictions: ClassVar[bool] = False

    def match(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /
    ) -> Int64[Tensor, " a"]:
        """For each anchor the row of its instance, ``BACKGROUND`` or ``IGNORE``."""
        grid = GridPairs(anchors)
        boxes = boxes.to(torch.promote_types(boxes.dtype, grid.boxes.dtype))
        matches = torch.full((grid.num_anchors,), BACKGROUND, device=boxes.device)
        close = grid.reaching(boxes, self.threshold)
        matches[close.anchors[close.iou > self.threshold]] = IGNORE
        if not len(boxes):
            return matches
        rows = self._responsible(anchors, boxes)
        iou = pairwise_iou(boxes, torch.cat([level.boxes() for level in anchors])[rows])
        best, instance = iou.max(dim=0)
        matches[rows[best > self.threshold]] = instance[best > self.threshold]
        top, at = iou.max(dim=1)
        forced = torch.full_like(matches, -1)
        own = torch.arange(len(boxes), device=boxes.device)
        forced.scatter_reduce_(0, rows[at[top > 0]], own[top > 0], "amax")
        return torch.where(forced >= 0, forced, matches)

    def foreground_pairs(
        self, anchors: Sequence[LevelGrid], boxes: Boxes, _predictions: Predictions | None = None, /
    ) -> AnchorPairs:
        """The pairs of a responsible anchor and an instance above the threshold."""
        grid = GridPairs(anchors)
        pairs = grid.reaching(boxes.to(torch.promote_types(boxes.dtype, grid.boxes.dtype)), self.threshold)
        responsible = torch.zeros(grid.num_anchors, dtype=torch.bool, device=boxes.device)
        responsible[self._responsible(anchors, boxes)] = True
        return pairs.where(responsible[pairs.anchors] & (pairs.iou > self.threshold))

    def _responsible(self, anchors: Sequence[LevelGrid], boxes: Boxes) -> Int64[Tensor, " r"]:
        """Rows of the anchors in cells that hold the centre of a box, in rising order."""
        centers, parts, first = (boxes[:, :2] + boxes[:, 2:]) / 2, [], 0
        for level in anchors:
            x, y = (centers / centers.new_tensor(level.stride_xy)).long().T
            cells = (y.clamp(0, level.height - 1) * level.width + x.clamp(0, level.width - 1)).unique()
            shapes = torch.arange(len(level.cell_boxes), device=boxes.device)
            parts.append((first + cells[:, None] * len(shapes) + shapes).flatten())
            first += level.num_anchors
        return torch.cat(parts)
