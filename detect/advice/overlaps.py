"""Pairs of boxes that overlap, without comparing every box with every other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

PAIRS_AT_ONCE = 500_000
ROUNDING_PX = 1e-3  # of places on an axis that is millions of pixels long; pairs are compared exactly


@dataclass(frozen=True, eq=False)
class OverlappingPairs:
    """Pairs of rows, ``first`` less than ``second``, and their IoU; made by :func:`overlapping_pairs`."""

    first: Int64[ndarray, " p"]
    second: Int64[ndarray, " p"]
    iou: Float64[ndarray, " p"]

    def above(self, iou: float) -> OverlappingPairs:
        """The pairs of a higher IoU."""
        return self.take(self.iou > iou)

    def take(self, kept: Bool[ndarray, " p"]) -> OverlappingPairs:
        """Some of the pairs."""
        return OverlappingPairs(self.first[kept], self.second[kept], self.iou[kept])


def overlapping_pairs(
    boxes: Float64[ndarray, "n 4"], groups: Int64[ndarray, " n"], *, above_iou: float = 0.0
) -> OverlappingPairs:
    """The pairs of boxes (x0, y0, x1, y1) of one group, such as an image, whose IoU is above a number.

    Only boxes whose extents in x overlap are compared. Pairs are in the order of their first row, then of their second.

    >>> boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    >>> pairs = overlapping_pairs(boxes, np.array([7, 7, 7, 8]))
    >>> pairs.first, pairs.second, pairs.iou
    (array([0]), array([2]), array([0.5]))
    """
    order = np.lexsort((boxes[:, 0], groups))
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    candidates = _candidates(boxes[order], groups[order], order)
    found = [_compared(boxes, areas, own, other, above_iou) for own, other in candidates]
    columns = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    first, second, iou = (np.concatenate(column) for column in zip(columns, *found, strict=True))
    by_row = np.lexsort((second, first))
    return OverlappingPairs(first[by_row], second[by_row], iou[by_row])


def _candidates(
    boxes: Float64[ndarray, "n 4"], groups: Int64[ndarray, " n"], rows: Int64[ndarray, " n"]
) -> Iterator[tuple[Int64[ndarray, " p"], Int64[ndarray, " p"]]]:
    """Rows of each sorted box and of those after it in its group that begin before it ends, in blocks."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    sizes = np.diff(starts, append=len(groups))
    low, high = boxes[:, 0].min(initial=0), boxes[:, 2].max(initial=1)
    offset = np.repeat(np.arange(len(starts)) * (high - low + 1), sizes)  # groups lie side by side on one axis
    ends = np.searchsorted(boxes[:, 0] + offset, boxes[:, 2] + offset + ROUNDING_PX)
    np.minimum(ends, np.repeat(starts + sizes, sizes), out=ends)
    counts = np.maximum(ends - np.arange(1, len(boxes) + 1), 0)
    del offset, ends  # as large as the boxes
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    for block in np.split(np.arange(len(boxes)), cuts):
        own = np.repeat(block, counts[block])
        steps = np.arange(len(own)) - np.repeat(np.cumsum(counts[block]) - counts[block], counts[block])
        yield rows[own], rows[own + 1 + steps]


def _compared(
    boxes: Float64[ndarray, "n 4"],
    areas: Float64[ndarray, " n"],
    own: Int64[ndarray, " p"],
    other: Int64[ndarray, " p"],
    above_iou: float,
) -> tuple[Int64[ndarray, " q"], Int64[ndarray, " q"], Float64[ndarray, " q"]]:
    low = np.maximum(boxes[own, :2], boxes[other, :2])
    high = np.minimum(boxes[own, 2:], boxes[other, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    iou = shared / np.where(shared > 0, areas[own] + areas[other] - shared, 1.0)
    kept = iou > above_iou
    return np.minimum(own, other)[kept], np.maximum(own, other)[kept], iou[kept]
