"""Maximum-IoU matching of anchors on lattices without the matrix of all pairs, and with the same answer on every anchor.

Where a box of size (w, h) has IoU >= t with an anchor of size (w_a, h_a), their intersection is at least
t / (1 + t) * (w h + w_a h_a). That confines the rows of the lattice to an interval, and within a row, whose overlap in y is
then known, the columns: what is left is looked at pair by pair, in the arithmetic that the matrix would have used. The best
anchors of an instance that reaches t nowhere lie where the overlap along each axis is greatest, which is an interval too.

Intervals are computed in double precision and widened by more than its rounding, so none leaves a pair out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from detect.ops.boxes import matched_iou, pairwise_iou
from detect.ops.matcher import CHUNK_PAIRS, MaxIoU, add_low_quality, best_per_anchor, graded


@dataclass(frozen=True, eq=False)
class LevelGrid:
    """Anchor (row, column, k) of a level is ``cell_boxes[k]`` moved right by column * stride_x, down by row * stride_y.

    Strides are in pixels of the network's input; ``cell_boxes`` (x0, y0, x1, y1) are those of the first cell.

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
        """All anchors, in the order of row, column, k: that of a head's outputs."""
        like = self.cell_boxes
        x = torch.arange(self.width, dtype=like.dtype, device=like.device) * self.stride_xy[0]
        y = torch.arange(self.height, dtype=like.dtype, device=like.device) * self.stride_xy[1]
        shifts = torch.stack([x.expand(self.height, -1), y[:, None].expand(-1, self.width)], dim=-1).repeat(1, 1, 2)
        return (shifts[:, :, None] + like).reshape(-1, 4)


SLACK = 1e-3  # of an overlap, and of a cell: far above single precision's rounding, far below what would cost time


def match_level_grids(
    lattices: Sequence[LevelGrid], boxes: Float[Tensor, "n 4"], rule: MaxIoU | None = None
) -> Int64[Tensor, " a"]:
    """Match the anchors of a pyramid by maximum IoU; the same as ``match_boxes`` on all of them, without the product.

    >>> lattice = LevelGrid(2, 3, (8.0, 8.0), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    >>> match_level_grids([lattice], torch.tensor([[8.0, 0.0, 16.0, 9.0], [0.0, 8.0, 5.0, 16.0]]))
    tensor([-1,  0, -1,  1, -1, -1])
    """
    rule = rule or MaxIoU()
    cells = _Cells.of(lattices)
    dtype = torch.promote_types(boxes.dtype, cells.boxes.dtype)
    boxes = boxes.to(dtype)
    close = cells.pairs_reaching(boxes, rule.background)
    best, instance = best_per_anchor(close.anchors, close.iou, close.instances, cells.num_anchors)
    matches = graded(best, instance, rule)
    if not rule.low_quality or not len(boxes):
        return matches
    top = boxes.new_zeros(len(boxes)).scatter_reduce_(0, close.instances, close.iou, "amax")
    far = torch.nonzero(top == 0)[:, 0]  # these reach the threshold nowhere
    remote = cells.best_pairs(boxes, far)
    top.scatter_reduce_(0, remote.instances, remote.iou, "amax")
    pairs = close.joined(remote)
    best_ones = (pairs.iou == top[pairs.instances]) & (pairs.iou > 0)
    anchors, triggers = pairs.anchors[best_ones], pairs.instances[best_ones]
    own = instance[anchors]
    unknown = torch.nonzero(best[anchors] == 0)[:, 0]
    own[unknown] = _own_instance(pairs.anchor_boxes[best_ones][unknown], boxes)
    add_low_quality(matches, anchors, triggers, own, rule)
    return matches


def _own_instance(anchors: Float[Tensor, "m 4"], boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, " m"]:
    """The instance that each anchor overlaps most, the first of equals."""
    step = max(1, CHUNK_PAIRS // max(len(boxes), 1))
    parts = [pairwise_iou(some, boxes).argmax(dim=1) for some in torch.split(anchors, step)]
    return torch.cat([torch.zeros(0, dtype=torch.int64, device=anchors.device), *parts])


@dataclass(frozen=True)
class _Pairs:
    """Anchors and instances that were looked at, and their IoU."""

    anchors: Int64[Tensor, " m"]
    anchor_boxes: Float[Tensor, "m 4"]
    instances: Int64[Tensor, " m"]
    iou: Float[Tensor, " m"]

    def take(self, rows: Int64[Tensor, " r"]) -> _Pairs:
        return _Pairs(self.anchors[rows], self.anchor_boxes[rows], self.instances[rows], self.iou[rows])

    def joined(self, other: _Pairs) -> _Pairs:
        return _Pairs(
            torch.cat([self.anchors, other.anchors]),
            torch.cat([self.anchor_boxes, other.anchor_boxes]),
            torch.cat([self.instances, other.instances]),
            torch.cat([self.iou, other.iou]),
        )


@dataclass(frozen=True)
class _Cells:
    """The kinds of anchors of all lattices: one row for each level and each box of its cell."""

    boxes: Float[Tensor, "m 4"]
    stride_xy: Float[Tensor, "m 2"]
    size_wh: Int64[Tensor, "m 2"]
    """Columns and rows of the level."""
    first: Int64[Tensor, " m"]
    """The anchor of this kind in the level's first cell."""
    step: Int64[Tensor, " m"]
    """Anchors in a cell."""
    num_anchors: int

    @classmethod
    def of(cls, lattices: Sequence[LevelGrid]) -> _Cells:
        if not lattices:
            raise ValueError("need at least one lattice")
        like = lattices[0].cell_boxes
        kinds: list[tuple[float, float, int, int, int, int]] = []
        total = 0
        for lattice in lattices:
            count = len(lattice.cell_boxes)
            kinds += [(*lattice.stride_xy, lattice.width, lattice.height, total + k, count) for k in range(count)]
            total += lattice.num_anchors
        table = torch.tensor(kinds, dtype=torch.float64, device=like.device).reshape(-1, 6)
        whole = table[:, 2:].to(torch.int64)
        return cls(
            torch.cat([lattice.cell_boxes for lattice in lattices]),
            table[:, :2].to(like.dtype),
            whole[:, :2],
            whole[:, 2],
            whole[:, 3],
            total,
        )

    def pairs_reaching(self, boxes: Float[Tensor, "n 4"], threshold: float) -> _Pairs:
        """All pairs whose IoU reaches the threshold."""
        kind, instance = self._every_kind_with(torch.arange(len(boxes), device=boxes.device))
        anchor, box = self.boxes.double()[kind], boxes.double()[instance]
        least = (_area(anchor) + _area(box)) * (threshold / (1 + threshold) * (1 - SLACK))
        narrow = torch.minimum(_extents(anchor), _extents(box))
        possible = _where((least <= narrow.prod(dim=1)) & (least > 0))
        kind, instance, least, narrow = kind[possible], instance[possible], least[possible], narrow[possible]
        at, row = _every(*self._interval(kind, boxes[instance], least / narrow[:, 0], axis=1))
        kind, instance, least, narrow = kind[at], instance[at], least[at], narrow[at]
        high = self._overlap(kind, boxes[instance], row, axis=1) * (1 + SLACK)
        reach = _where(least <= high * narrow[:, 0])
        kind, instance, row, wide = kind[reach], instance[reach], row[reach], least[reach] / high[reach]
        at, column = _every(*self._interval(kind, boxes[instance], wide, axis=0))
        pairs = self._pairs(kind[at], instance[at], column, row[at], boxes)
        return pairs.take(_where(pairs.iou >= threshold))

    def best_pairs(self, boxes: Float[Tensor, "n 4"], rows: Int64[Tensor, " r"]) -> _Pairs:
        """For these instances all pairs whose IoU is, but for rounding, the highest that they have with any anchor."""
        kind, instance = self._every_kind_with(rows)
        wide, high = (self._greatest_overlap(kind, boxes[instance], axis) for axis in (0, 1))
        union = _area(self.boxes.double()[kind]) + _area(boxes.double()[instance]) - wide * high
        iou = wide * high / union
        top = iou.new_zeros(len(boxes)).scatter_reduce_(0, instance, iou, "amax")[instance]
        likely = _where((iou >= top * (1 - SLACK)) & (top > 0))
        kind, instance, wide, high = kind[likely], instance[likely], wide[likely], high[likely]
        at, row = _every(*self._interval(kind, boxes[instance], high * (1 - SLACK), axis=1))
        kind, instance, wide = kind[at], instance[at], wide[at]
        at, column = _every(*self._interval(kind, boxes[instance], wide * (1 - SLACK), axis=0))
        return self._pairs(kind[at], instance[at], column, row[at], boxes)

    def _every_kind_with(self, rows: Int64[Tensor, " r"]) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        kind = torch.arange(len(self.boxes), device=rows.device)
        return kind.repeat(len(rows)), rows.repeat_interleave(len(kind))

    def _interval(
        self, kind: Int64[Tensor, " m"], boxes: Float[Tensor, "m 4"], overlap: Float64[Tensor, " m"], axis: int
    ) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """First and last column (row) in which the overlap along the axis reaches what is asked for, or somewhat less."""
        cell, box, stride = self.boxes.double()[kind], boxes.double(), self.stride_xy[kind, axis].double()
        first = (box[:, axis] + overlap - cell[:, axis + 2]) / stride - SLACK
        last = (box[:, axis + 2] - overlap - cell[:, axis]) / stride + SLACK
        return first.ceil().long().clamp_min(0), torch.minimum(last.floor().long(), self.size_wh[kind, axis] - 1)

    def _overlap(
        self, kind: Int64[Tensor, " m"], boxes: Float[Tensor, "m 4"], index: Int64[Tensor, " m"], axis: int
    ) -> Float64[Tensor, " m"]:
        cell, box = self.boxes.double()[kind], boxes.double()
        shift = index * self.stride_xy[kind, axis].double()
        end = torch.minimum(box[:, axis + 2], cell[:, axis + 2] + shift)
        return (end - torch.maximum(box[:, axis], cell[:, axis] + shift)).clamp_min(0)

    def _greatest_overlap(
        self, kind: Int64[Tensor, " m"], boxes: Float[Tensor, "m 4"], axis: int
    ) -> Float64[Tensor, " m"]:
        """Overlap along an axis only shrinks with the distance of centres: the nearest column (row) has the most."""
        cell, box = self.boxes.double()[kind], boxes.double()
        distance = (box[:, axis] + box[:, axis + 2] - cell[:, axis] - cell[:, axis + 2]) / 2
        index = (distance / self.stride_xy[kind, axis].double()).round().long()
        last = self.size_wh[kind, axis] - 1
        return self._overlap(kind, boxes, torch.minimum(index.clamp_min(0), last), axis)

    def _pairs(
        self,
        kind: Int64[Tensor, " m"],
        instance: Int64[Tensor, " m"],
        column: Int64[Tensor, " m"],
        row: Int64[Tensor, " m"],
        boxes: Float[Tensor, "n 4"],
    ) -> _Pairs:
        shift = torch.stack([column, row], dim=1) * self.stride_xy[kind]
        anchor_boxes = shift.repeat(1, 2) + self.boxes[kind]  # as LevelGrid.boxes adds them, to the bit
        anchors = self.first[kind] + (row * self.size_wh[kind, 0] + column) * self.step[kind]
        return _Pairs(anchors, anchor_boxes, instance, matched_iou(boxes[instance], anchor_boxes))


def _extents(boxes: Float64[Tensor, "m 4"]) -> Float64[Tensor, "m 2"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0)


def _area(boxes: Float64[Tensor, "m 4"]) -> Float64[Tensor, " m"]:
    return _extents(boxes).prod(dim=1)


def _where(mask: Bool[Tensor, " m"]) -> Int64[Tensor, " r"]:
    return torch.nonzero(mask)[:, 0]


def _every(
    first: Int64[Tensor, " m"], last: Int64[Tensor, " m"]
) -> tuple[Int64[Tensor, " total"], Int64[Tensor, " total"]]:
    """All whole numbers of each interval, and the interval that each is from."""
    counts = (last - first + 1).clamp_min(0)
    at = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return at, torch.arange(len(at), device=at.device) - before[at] + first[at]
