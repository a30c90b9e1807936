"""Boxes by their shapes alone, compared by side ratio in place of IoU: YOLOv5's and YOLOv7's rule of matching.

With x, y the differences of logarithms between a box and a shape, the side ratio is

    r = exp(-max(|x|, |y|)) = exp(-|x + y| / 2) exp(-|x - y| / 2):

a ratio of sizes, sqrt(w h), times one of aspects, sqrt(w / h). ln r is concave, so a tangent bounds it over a square.

**Medians.** The exponential lies above its tangent in |x + y| / 2 + |x - y| / 2. So weighted medians of sizes and aspects
never lower the sum of ratios over a shape's boxes, when the present ratios are the weights.

**A point that stands for several boxes.** Let p be the slope of ln r at the point: 1 in all, along one axis. A box d away
from it has at most r exp(p d), and exp(t) <= 1 + t + t**2 / 2 exp(|t|): since d is 0 in the mean, the boxes' mean exceeds r
by at most half of their variance times the highest ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.fitting.gains import PerBox, Shapes, Table
from detect.fitting.kmeans import Members, improve_centers
from detect.fitting.shape_cells import ShapeCells


@dataclass(frozen=True, eq=False, kw_only=True)
class RatioCells(ShapeCells):
    """Weighted points for boxes, compared by side ratio.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> cells = RatioCells.of(ShapeHistogram.of(np.array([[10.0, 20.0], [300.0, 50.0]])), objective="ratio")
    >>> cells.utilities(0, np.array([[20.0, 25.0]])).round(4)
    array([[0.5   , 0.0667]])
    """

    _bend = 0.5

    def _similarity(self, level: int, shapes: Shapes) -> Table:
        return np.minimum(*(self._ratio(axis, shapes[:, axis : axis + 1]) for axis in (0, 1)))

    def _highest_similarity(self, level: int, low: Shapes, high: Shapes) -> Table:
        """The shape nearest to a box is the best."""
        spans = [(low[:, axis : axis + 1], high[:, axis : axis + 1]) for axis in (0, 1)]
        return np.minimum(*(self._ratio(axis, np.clip(self.extents[axis], *span)) for axis, span in enumerate(spans)))

    def _ratio(self, axis: int, sides: Float64[ndarray, "s _"]) -> Table:
        return np.minimum(sides, self.extents[axis]) / np.maximum(sides, self.extents[axis])

    def _tangents(self, level: int, shapes: Shapes) -> tuple[Table, list[Table]]:
        x, y = (self._logarithms[axis] - np.log(shapes[:, axis : axis + 1]) for axis in (0, 1))
        by_width = np.abs(x) >= np.abs(y)
        ratio = np.exp(-np.where(by_width, np.abs(x), np.abs(y)))
        return ratio, [np.where(by_width, np.sign(x), 0.0), np.where(by_width, 0.0, np.sign(y))]

    @staticmethod
    def _similarity_of(ratio: Table) -> Table:
        return ratio

    @cached_property
    def _logarithms(self) -> Float64[ndarray, "2 n"]:
        return np.log(self.extents)

    def _improved(self, shapes: Shapes, num_fixed: int, max_iter: int) -> Shapes:
        members = self._members

        def update(_: Members, labels: Int64[ndarray, " n"], centers: Shapes) -> Shapes:
            weights = members.weights * members.ratios(centers.T[:, labels])
            return np.stack([members.medians(axis, weights, labels, len(centers)) for axis in (0, 1)], axis=1)

        start = _sizes_and_aspects(shapes)
        sizes, aspects = improve_centers(
            members, start, update=update, num_fixed=num_fixed, max_iter=max_iter
        ).centers.T
        return np.stack([sizes * aspects, sizes / aspects], axis=1)

    @cached_property
    def _members(self) -> _Turned:
        return _Turned(_sizes_and_aspects(self.extents.T), self.weights)


class _Turned(Members):
    """Shapes as (size, aspect), along which side ratios are products."""

    def nearest(self, centers: Shapes) -> tuple[PerBox, Int64[ndarray, " n"]]:
        best, labels = np.zeros(len(self.weights)), np.zeros(len(self.weights), np.int64)
        for index, center in enumerate(centers):
            ratio = self.ratios(center[:, None])
            better = ratio > best
            np.copyto(best, ratio, where=better)
            np.copyto(labels, index, where=better)
        return best, labels

    def ratios(self, centers: Float64[ndarray, "2 _"]) -> PerBox:
        """The side ratio of each shape with the one centre, or with its own."""
        return np.prod(np.minimum(self.columns, centers) / np.maximum(self.columns, centers), axis=0)


def _sizes_and_aspects(shapes: Shapes) -> Shapes:
    """(sqrt(w h), sqrt(w / h)) of shapes."""
    return np.sqrt(np.stack([shapes[:, 0] * shapes[:, 1], shapes[:, 0] / shapes[:, 1]], axis=1))
