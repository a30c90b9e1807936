"""Boxes by their shapes alone, as if each shared its centre with the best anchor: a level on which all distances are 0.

A cell of a :class:`~detect.anchors.histogram.ShapeHistogram` is one point of the plane (ln w, ln h), the mean of its boxes.
Points can be joined further: the mean stays exact and the spread is kept, so that bounds over the points hold for the boxes.

**A point that stands for several boxes.** With x, y the differences of logarithms between a box and a shape, IoU is
exp(-|x| - |y|) where they agree in sign and 1 / (e^|x| + e^|y| - 1) where not; its second derivatives are at most IoU (xx,
yy) and 2 IoU (xy). So the mean IoU of the boxes exceeds that at their mean position by at most 3/2 of their variance times
the highest IoU, and no single one differs by more than e^radius - 1 of it. The mean of max(utility - dual, 0) is then at
most the chord between these extremes. A threshold counts as reached when any box may reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram
from detect.errors import FitError
from detect.fitting.gains import Pair, PerBox, Shapes, Table
from detect.fitting.kmeans import Members, improve_centers
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions

CELLS_PER_OCTAVE = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024)
POINTS_TO_PROVE_ON = 12_000
ROUNDING = 1e-9  # positions in histograms are rounded, and so are sums


@dataclass(frozen=True, eq=False, kw_only=True)
class ShapeCells(OwnPositions):
    """Weighted points for boxes, on one level at distance 0; made by :meth:`of`."""

    radius: PerBox
    """Upper bound of |d ln w| + |d ln h| between a point and its boxes."""
    variance: PerBox
    """Upper bound of the mean of (d ln w)**2 + (d ln h)**2 over a point's boxes."""
    fixed: Float64[ndarray, "m 2"]
    """(width, height) of anchors that are part of every choice."""

    max_table = 500_000
    settles = True
    _curvature = 0.0  # with both centres in one place ln r has no bend but at its kinks, where its slope falls
    _bend = 1.5  # times a point's variance bounds what its boxes have more in their mean, relative to the highest IoU

    @classmethod
    def of(  # type: ignore[override] # from a histogram, not from instances
        cls,
        histograms: ShapeHistogram | Sequence[ShapeHistogram],
        weights: Float64[ndarray, " cells"] | Sequence[float] | None = None,
        *,
        objective: str | Objective = "iou",
        fixed: Sequence[tuple[float, float]] = (),
    ) -> ShapeCells:
        """The cells of a histogram, or of several, such as one for each category.

        ``weights`` are those of a box in each cell of the one histogram, or in each of several histograms.

        Raises:
            FitError: there are no boxes, or the objective does not parse.
            ValueError: the weights are not as many as needed, negative, not finite, or all 0.

        >>> cells = ShapeCells.of(ShapeHistogram.of(np.array([[10.0, 20.0], [10.1, 20.1], [300.0, 50.0]])))
        >>> cells.extents.T.round(2), cells.weights.round(3)
        (array([[ 10.05,  20.05],
               [300.  ,  50.  ]]), array([0.667, 0.333]))
        """
        one = isinstance(histograms, ShapeHistogram)
        parts = [histograms] if isinstance(histograms, ShapeHistogram) else list(histograms)
        if not sum(map(len, parts)):
            raise FitError("no boxes to fit anchors to")
        expected = len(parts[0]) if one else len(parts)
        given = np.ones(expected) if weights is None else np.asarray(weights, np.float64)
        if given.shape != (expected,):
            what = "cells of the histogram" if one else "histograms"
            raise ValueError(f"need one weight for each of {expected} {what}, got {given.size}")
        if not (np.isfinite(given).all() and (given >= 0).all()):
            raise ValueError("weights must be finite and at least 0")
        box_weights = given if one else np.repeat(given, [len(part) for part in parts])
        log_wh, counts, radius, variance = map(np.concatenate, zip(*map(_Points.of, parts), strict=True))
        total = counts * box_weights
        if not total.sum() > 0:
            raise ValueError("no box of positive weight")
        kept = total > 0
        points = _Points(log_wh[kept], total[kept] / total.sum(), radius[kept], variance[kept]).joined(log_wh[kept])
        fixed_shapes = np.array(fixed, np.float64).reshape(-1, 2)
        return cls._of_points(points, objective=Objective.parse(objective), fixed=fixed_shapes)

    @classmethod
    def _of_points(cls, points: _Points, *, objective: Objective, fixed: Float64[ndarray, "m 2"]) -> ShapeCells:
        count = len(points.weights)
        return cls(
            extents=np.exp(points.log_wh.T),
            weights=points.weights,
            served=np.ones((1, count), bool),
            far=np.zeros((1, 2, count)),
            strides=(1,),
            radius=points.radius,
            variance=points.variance,
            objective=objective,
            fixed=fixed,
            error=ROUNDING,
        )

    def coarsened(self, cells_per_octave: int) -> ShapeCells:
        """Points in one square cell of the plane joined into one, at their mean."""
        points = _Points(np.log(self.extents.T), self.weights, self.radius, self.variance)
        keys = np.floor(points.log_wh * (cells_per_octave / np.log(2)))
        return self._of_points(points.joined(keys), objective=self.objective, fixed=self.fixed)

    def joined(self, limit: int) -> ShapeCells:
        return self if len(self) <= limit else self._coarse_stages(limit)[-1]

    def stages(self) -> list[ShapeCells]:
        stages = self._coarse_stages(POINTS_TO_PROVE_ON)
        return [*stages, self] if len(self) <= POINTS_TO_PROVE_ON else stages

    def _coarse_stages(self, limit: int) -> list[ShapeCells]:
        stages: list[ShapeCells] = []
        for cells_per_octave in CELLS_PER_OCTAVE:
            stage = self.coarsened(cells_per_octave)
            if stages and len(stage) > min(limit, 0.9 * len(self)):
                break
            stages.append(stage)
        return stages

    @cached_property
    def floor(self) -> PerBox:  # type: ignore[override]
        return self.weights * self.utilities(0, self.fixed).max(axis=0, initial=0.0)

    def reduced_utility_of_fixed(self, duals: PerBox) -> float:
        return float(self.reduced_utilities(0, duals, self.fixed).sum())

    def reduced_utility_of_small_shapes(self, duals: PerBox) -> float:
        return 0.0  # below all extents every IoU grows with the shape

    def log_range(self, level: int) -> tuple[Pair, Pair]:
        return np.log(self.extents.min(axis=1)), np.log(self.extents.max(axis=1))

    def _columns(self, rows: Int64[ndarray, " m"]) -> dict[str, Any]:
        return super()._columns(rows) | {"radius": self.radius[rows], "variance": self.variance[rows]}

    def settled(self, shapes: Shapes, max_updates: int) -> Shapes:
        """Shapes after weighted-median updates over all points; unchanged for recall alone. Fixed shapes do not move."""
        if self.objective.recall_share == 1 or not len(shapes):
            return shapes
        start = np.concatenate([self.fixed, shapes])
        return self._improved(start, len(self.fixed), max_updates)[len(self.fixed) :]

    def _improved(self, shapes: Shapes, num_fixed: int, max_iter: int) -> Shapes:
        return improve_centers(self._members, shapes, num_fixed=num_fixed, max_iter=max_iter).centers

    @cached_property
    def _members(self) -> Members:
        return Members(np.ascontiguousarray(self.extents.T), self.weights)

    def reduced_utilities(self, level: int, duals: PerBox, shapes: Shapes) -> Table:
        return self._reduced_at(self._similarity(level, shapes), duals)

    def highest_reduced_utilities(self, level: int, duals: PerBox, low: Pair, high: Pair) -> PerBox:
        return self._reduced_at(self._highest_similarity(level, low[None], high[None])[0], duals)

    @cached_property
    def _reach(self) -> PerBox:
        """Largest difference between the IoU of a box and that of its point, relative to the latter."""
        return np.expm1(self.radius)

    @cached_property
    def _threshold(self) -> PerBox:  # type: ignore[override]
        return self.objective.reaches / (1 + self._reach)

    def _reduced(
        self, iou: Float64[ndarray, "*s n"], reached: Bool[ndarray, "*s n"], duals: PerBox
    ) -> Float64[ndarray, "*s n"]:
        """Upper bounds of the mean over each point's boxes."""
        if not self._reach.any():
            return super()._reduced(iou, reached, duals)
        bend = np.minimum(self._bend * self.variance * (1 + self._reach), self._reach)
        chord = 0.5 * (1 + np.divide(bend, self._reach, out=np.zeros_like(bend), where=self._reach > 0))
        result = super()._reduced(iou * (1 + bend), reached, duals)
        at_most = self.objective.blend(iou * (1 + self._reach), reached)
        return np.maximum(result, chord * (self.weights * at_most - duals), out=result)

    def _highest_similarity(self, level: int, low: Shapes, high: Shapes) -> Table:
        """IoU falls with each difference of logarithms: the shape nearest to a box is the best."""
        both, area = 1.0, 1.0
        for axis in (0, 1):
            nearest = np.clip(self.extents[axis], low[:, axis : axis + 1], high[:, axis : axis + 1])
            both, area = both * np.minimum(self.extents[axis], nearest), area * nearest
        return both / (self.extents.prod(axis=0) + area - both)

    def _overlap(self, level: int, axis: int, shapes: Shapes) -> Table:
        return np.minimum(self.extents[axis], shapes[:, axis : axis + 1])


class _Points(NamedTuple):
    log_wh: Float64[ndarray, "n 2"]
    weights: PerBox
    radius: PerBox
    variance: PerBox

    @classmethod
    def of(cls, histogram: ShapeHistogram) -> _Points:
        """The cells, weighted by count. Values in [0, 1] of mean m have a variance of at most m (1 - m)."""
        width = np.log(2) / histogram.cells_per_octave
        log_wh = np.log(histogram.shapes)
        mean = log_wh / width - histogram.cells
        several = histogram.counts > 1  # a single box is where its cell says it is
        radius = np.where(several, np.maximum(mean, 1 - mean).sum(axis=1) * width, 0.0)
        variance = np.where(several, (mean * (1 - mean)).clip(min=0).sum(axis=1) * width**2, 0.0)
        return cls(log_wh, histogram.counts.astype(np.float64), radius, variance)

    def joined(self, keys: Float64[ndarray, "n 2"]) -> _Points:
        """Points with equal keys as one; in the order of the keys."""
        order = np.lexsort((self.log_wh[:, 1], self.log_wh[:, 0], keys[:, 1], keys[:, 0]))
        ordered = keys[order]
        new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
        starts, group = np.flatnonzero(new), np.cumsum(new) - 1
        log_wh, weights = self.log_wh[order], self.weights[order]
        total = np.add.reduceat(weights, starts)
        mean = np.add.reduceat(weights[:, None] * log_wh, starts) / total[:, None]
        single = np.bincount(group) == 1
        mean[single] = log_wh[starts[single]]  # to the last bit
        away = np.abs(log_wh - mean[group])
        variance = self.variance[order] + (away**2).sum(axis=1)
        radius = np.maximum.reduceat(self.radius[order] + away.sum(axis=1), starts)
        return _Points(mean, total, radius, np.add.reduceat(weights * variance, starts) / total)
