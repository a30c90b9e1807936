"""IoU of grid anchors with boxes, pair by pair, without the matrix of all pairs.

Where a box of size (w, h) has IoU >= t with an anchor of size (w_a, h_a), their intersection is at least t / (1 + t) * (w h
+ w_a h_a). This confines the rows of the grid to an interval. The overlap in y is then known, which confines the columns of
each row. The remaining pairs are compared in the arithmetic that the matrix would use, so the result is the same on every
anchor. A box that reaches t nowhere has its best anchors where the overlap along each axis is largest, which is an interval
too. Intervals are computed in double precision and widened by more than its rounding error, so no pair is lost.

The nearest centres need no interval: if cell (i, j), counted by distance along each axis, is among the k nearest, so are all
cells before it in both, so (i + 1) (j + 1) <= k. This leaves 23 cells for k = 9, each the nearest few of its row and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from detect.ops.boxes import matched_iou, to_device

OVERLAP_SLACK = 1e-3  # share of an overlap, and of a cell: far above single precision's rounding, yet costs no time
CHUNK_CANDIDATES = 2**22  # candidates of the nearest anchors compared at once

Rows = Int64[Tensor, " m"]
Overlaps = Float64[Tensor, " m"]
Boxes = Float[Tensor, "m 4"]


@dataclass(frozen=True, eq=False)
class LevelGrid:
    """The anchors of one pyramid level, in pixels of the network's input.

    Anchor (row, column, k) is ``cell_boxes[k]`` moved right by column * stride_x and down by row * stride_y. ``height`` and
    ``width`` count cells, and the boxes are (x0, y0, x1, y1).

    >>> LevelGrid(1, 2, (8.0, 8.0), torch.tensor([[0.0, 0.0, 4.0, 2.0]])).boxes()
    tensor([[ 0.,  0.,  4.,  2.],
            [ 8.,  0., 12.,  2.]])
    """

    height: int
    width: int
    stride_xy: tuple[float, float]
    cell_boxes: Float[Tensor, "k 4"]

    @property
    def num_anchors(self) -> int:
        return self.height * self.width * self.cell_boxes.shape[0]

    def boxes(self) -> Float[Tensor, "a 4"]:
        """All anchors in the order row, column, k: the order of a head's outputs."""
        like = self.cell_boxes
        x = torch.arange(self.width, dtype=like.dtype, device=like.device) * self.stride_xy[0]
        y = torch.arange(self.height, dtype=like.dtype, device=like.device) * self.stride_xy[1]
        shifts = torch.stack([x.expand(self.height, -1), y[:, None].expand(-1, self.width)], dim=-1).repeat(1, 1, 2)
        return (shifts[:, :, None] + like).reshape(-1, 4)


@dataclass(frozen=True, eq=False)
class AnchorPairs:
    """Pairs of an anchor and an instance with their IoU; both are given by row."""

    anchors: Rows
    anchor_boxes: Boxes
    instances: Rows
    iou: Float[Tensor, " m"]

    def where(self, mask: Bool[Tensor, " m"]) -> AnchorPairs:
        rows = _where(mask)
        return AnchorPairs(*(column[rows] for column in vars(self).values()))

    def joined(self, other: AnchorPairs) -> AnchorPairs:
        return AnchorPairs(*map(torch.cat, zip(vars(self).values(), vars(other).values(), strict=True)))


class GridPairs:
    """Finds pairs of boxes with the anchors of a pyramid, one row of a table for each level and each anchor of its cell."""

    def __init__(self, levels: Sequence[LevelGrid]) -> None:
        if not levels:
            raise ValueError("need at least one level grid")
        like = levels[0].cell_boxes
        table: list[tuple[float, float, int, int, int, int]] = []
        self.num_anchors = 0
        for level in levels:
            per_cell, first = len(level.cell_boxes), self.num_anchors
            table += [(*level.stride_xy, level.width, level.height, first + k, per_cell) for k in range(per_cell)]
            self.num_anchors += level.num_anchors
        columns = to_device(torch.tensor(table, dtype=torch.float64).reshape(-1, 6), like.device)
        self.boxes = torch.cat([level.cell_boxes for level in levels])
        self.stride_xy = columns[:, :2].to(like.dtype)
        whole = columns[:, 2:].to(torch.int64)
        self.size_wh, self.first, self.per_cell = whole[:, :2], whole[:, 2], whole[:, 3]

    def reaching(self, boxes: Float[Tensor, "n 4"], iou_thresh: float) -> AnchorPairs:
        """All pairs with IoU >= ``iou_thresh``, which is above 0."""
        kind, instance = self._every_kind_with(torch.arange(len(boxes), device=boxes.device))
        anchor, box = self.boxes.double()[kind], boxes.double()[instance]
        least = (_area(anchor) + _area(box)) * (iou_thresh / (1 + iou_thresh) * (1 - OVERLAP_SLACK))
        narrow = torch.minimum(_extents(anchor), _extents(box))
        possible = _where((least <= narrow.prod(dim=1)) & (least > 0))
        kind, instance, least, narrow = kind[possible], instance[possible], least[possible], narrow[possible]
        at, row = _every(*self._interval(kind, boxes[instance], least / narrow[:, 0], axis=1))
        kind, instance, least, narrow = kind[at], instance[at], least[at], narrow[at]
        high = self._overlap(kind, boxes[instance], row, axis=1) * (1 + OVERLAP_SLACK)
        reach = _where(least <= high * narrow[:, 0])
        kind, instance, row, wide = kind[reach], instance[reach], row[reach], least[reach] / high[reach]
        at, column = _every(*self._interval(kind, boxes[instance], wide, axis=0))
        pairs = self._pairs(kind[at], instance[at], column, row[at], boxes)
        return pairs.where(pairs.iou >= iou_thresh)

    def best(self, boxes: Float[Tensor, "n 4"], close: AnchorPairs) -> AnchorPairs:
        """Each instance with its best anchors, all that tie, if their IoU is above 0.

        ``close`` are the pairs above some threshold: only instances without any are searched for again.
        """
        top = boxes.new_zeros(len(boxes)).scatter_reduce_(0, close.instances, close.iou, "amax")
        far = self._near_best(boxes, _where(top == 0))
        top.scatter_reduce_(0, far.instances, far.iou, "amax")
        pairs = close.joined(far)
        return pairs.where((pairs.iou == top[pairs.instances]) & (pairs.iou > 0))

    def _near_best(self, boxes: Float[Tensor, "n 4"], rows: Int64[Tensor, " r"]) -> AnchorPairs:
        """Pairs of these instances that include every pair of their highest IoU."""
        kind, instance = self._every_kind_with(rows)
        wide, high = (self._greatest_overlap(kind, boxes[instance], axis) for axis in (0, 1))
        union = _area(self.boxes.double()[kind]) + _area(boxes.double()[instance]) - wide * high
        iou = wide * high / union
        top = iou.new_zeros(len(boxes)).scatter_reduce_(0, instance, iou, "amax")[instance]
        likely = _where((iou >= top * (1 - OVERLAP_SLACK)) & (top > 0))
        kind, instance, wide, high = kind[likely], instance[likely], wide[likely], high[likely]
        at, row = _every(*self._interval(kind, boxes[instance], high * (1 - OVERLAP_SLACK), axis=1))
        kind, instance, wide = kind[at], instance[at], wide[at]
        at, column = _every(*self._interval(kind, boxes[instance], wide * (1 - OVERLAP_SLACK), axis=0))
        return self._pairs(kind[at], instance[at], column, row[at], boxes)

    def _every_kind_with(self, rows: Int64[Tensor, " r"]) -> tuple[Rows, Rows]:
        kind = torch.arange(len(self.boxes), device=rows.device)
        return kind.repeat(len(rows)), rows.repeat_interleave(len(kind))

    def _interval(self, kind: Rows, boxes: Boxes, overlap: Overlaps, axis: int) -> tuple[Rows, Rows]:
        """First and last column (row) in which the overlap along the axis reaches a value, less a little slack."""
        cell, box, stride = self.boxes.double()[kind], boxes.double(), self.stride_xy[kind, axis].double()
        first = (box[:, axis] + overlap - cell[:, axis + 2]) / stride - OVERLAP_SLACK
        last = (box[:, axis + 2] - overlap - cell[:, axis]) / stride + OVERLAP_SLACK
        return first.ceil().long().clamp_min(0), torch.minimum(last.floor().long(), self.size_wh[kind, axis] - 1)

    def _overlap(self, kind: Rows, boxes: Boxes, index: Rows, axis: int) -> Overlaps:
        cell, box = self.boxes.double()[kind], boxes.double()
        shift = index * self.stride_xy[kind, axis].double()
        end = torch.minimum(box[:, axis + 2], cell[:, axis + 2] + shift)
        return (end - torch.maximum(box[:, axis], cell[:, axis] + shift)).clamp_min(0)

    def _greatest_overlap(self, kind: Rows, boxes: Boxes, axis: int) -> Overlaps:
        """The overlap along an axis falls with the distance of centres, so the nearest column (row) has the largest."""
        cell, box = self.boxes.double()[kind], boxes.double()
        distance = (box[:, axis] + box[:, axis + 2] - cell[:, axis] - cell[:, axis + 2]) / 2
        index = (distance / self.stride_xy[kind, axis].double()).round().long()
        last = self.size_wh[kind, axis] - 1
        return self._overlap(kind, boxes, torch.minimum(index.clamp_min(0), last), axis)

    def _pairs(self, kind: Rows, instance: Rows, column: Rows, row: Rows, boxes: Float[Tensor, "n 4"]) -> AnchorPairs:
        shift = torch.stack([column, row], dim=1) * self.stride_xy[kind]
        anchor_boxes = shift.repeat(1, 2) + self.boxes[kind]  # the same additions as LevelGrid.boxes, bit for bit
        anchors = self.first[kind] + (row * self.size_wh[kind, 0] + column) * self.per_cell[kind]
        return AnchorPairs(anchors, anchor_boxes, instance, matched_iou(boxes[instance], anchor_boxes))


def nearest_anchors(level: LevelGrid, boxes: Float[Tensor, "n 4"], count: int) -> Int64[Tensor, "n k"]:
    """The rows of the ``count`` anchors of a level with the nearest centres, or of all if there are fewer.

    Distances are compared in double precision; of equals the first anchor is nearer.

    >>> level = LevelGrid(3, 4, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> nearest_anchors(level, torch.tensor([[10.0, 6.0, 14.0, 8.0]]), 3)  # columns 0 and 2 are equally near
    tensor([[1, 5, 0]])
    """
    kinds = len(level.cell_boxes)
    parts = [torch.zeros(0, min(count, level.num_anchors), dtype=torch.int64, device=boxes.device)]
    ranks = [(i, j) for j in range(min(count, level.height)) for i in range(min(count // (j + 1), level.width))]
    first, second = to_device(torch.tensor(ranks, dtype=torch.int64).reshape(-1, 2), boxes.device).unbind(1)
    kind = torch.arange(kinds, device=boxes.device)[:, None]
    compared = max(kinds, 1) * (len(ranks) + 2 * _window(count))  # for each box
    for some in torch.split(boxes, max(1, CHUNK_CANDIDATES // compared)):
        column, x = _nearest_along(level, some, count, axis=0)
        row, y = _nearest_along(level, some, count, axis=1)
        anchor = (row[..., second] * level.width + column[..., first]) * kinds + kind
        anchor, order = anchor.flatten(1).sort(dim=1)
        distance = (x[..., first] + y[..., second]).flatten(1).gather(1, order)
        nearest = distance.argsort(dim=1, stable=True)[:, :count]
        parts.append(anchor.gather(1, nearest))
    return torch.cat(parts)


def _window(count: int) -> int:
    """Columns (rows) that include the ``count`` nearest, around one that may be beside the nearest by rounding."""
    return 2 * count + 3


def _nearest_along(
    level: LevelGrid, boxes: Float[Tensor, "n 4"], count: int, *, axis: int
) -> tuple[Int64[Tensor, "n kinds m"], Float64[Tensor, "n kinds m"]]:
    """For each box and kind of anchor the nearest columns (rows) in order, and squares of their distances."""
    size, stride = (level.width, level.height)[axis], level.stride_xy[axis]
    start, end = level.cell_boxes[:, axis], level.cell_boxes[:, axis + 2]
    center = ((boxes[:, axis] + boxes[:, axis + 2]) / 2).double()[:, None]
    middle = ((center - (start.double() + end.double()) / 2) / stride).round().clamp(0, size - 1).long()
    first = (middle - _window(count) // 2).clamp(0, max(size - _window(count), 0))
    index = first[..., None] + torch.arange(min(size, _window(count)), device=boxes.device)
    shift = index.to(start.dtype) * stride  # the same operations as LevelGrid.boxes, bit for bit
    centers = ((shift + start[:, None]) + (shift + end[:, None])) / 2
    distance, order = (centers.double() - center[..., None]).square().sort(dim=-1, stable=True)
    return index.gather(-1, order[..., :count]), distance[..., :count]


def _extents(boxes: Float64[Tensor, "m 4"]) -> Float64[Tensor, "m 2"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0)


def _area(boxes: Float64[Tensor, "m 4"]) -> Overlaps:
    return _extents(boxes).prod(dim=1)


def _where(mask: Bool[Tensor, " m"]) -> Int64[Tensor, " r"]:
    return torch.nonzero(mask)[:, 0]


def _every(first: Rows, last: Rows) -> tuple[Int64[Tensor, " total"], Int64[Tensor, " total"]]:
    """The row of the interval that each whole number comes from, and the number, over all intervals."""
    counts = (last - first + 1).clamp_min(0)
    at = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return at, torch.arange(len(at), device=at.device) - before[at] + first[at]
