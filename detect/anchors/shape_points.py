"""Points of the plane (ln w, ln h), each standing for boxes around it, with what is known of their spread.

A cell of a :class:`~detect.anchors.histogram.ShapeHistogram` gives one point, the mean of its members. Points can be joined
further: the mean stays exact and the spread is carried along, so that what is proved over the points holds for the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram


@dataclass(frozen=True, eq=False)
class ShapePoints:
    """Weighted points for boxes; made by :meth:`of`.

    >>> points = ShapePoints.of(ShapeHistogram.of(np.array([[10.0, 20.0], [10.1, 20.1], [300.0, 50.0]])))
    >>> points.shapes.round(2), points.weights.round(3)
    (array([[ 10.05,  20.05],
           [300.  ,  50.  ]]), array([0.667, 0.333]))
    """

    log_wh: Float64[ndarray, "n 2"]
    weights: Float64[ndarray, " n"]
    """Positive; their sum is 1."""
    radius: Float64[ndarray, " n"]
    """No box lies farther than this from its point, |d ln w| + |d ln h|."""
    variance: Float64[ndarray, " n"]
    """Mean of (d ln w)**2 + (d ln h)**2 over a point's boxes, at most."""

    @classmethod
    def of(
        cls,
        histograms: ShapeHistogram | Sequence[ShapeHistogram],
        weights: Float64[ndarray, " cells"] | Sequence[float] | None = None,
    ) -> ShapePoints:
        """The cells of a histogram, or of several.

        Args:
            histograms: one, or several: of categories, say.
            weights: of one histogram, for each cell the weight of a box in it; of several, for each the weight of a box.

        Raises:
            ValueError: the weights are not as many as needed, negative, not finite, or all 0.
        """
        one = isinstance(histograms, ShapeHistogram)
        parts = [histograms] if isinstance(histograms, ShapeHistogram) else list(histograms)
        expected = len(parts[0]) if one else len(parts)
        given = np.ones(expected) if weights is None else np.asarray(weights, np.float64)
        if given.shape != (expected,):
            what = "cells of the histogram" if one else "histograms"
            raise ValueError(f"need one weight for each of {expected} {what}, got {given.size}")
        if not (np.isfinite(given).all() and (given >= 0).all()):
            raise ValueError("weights must be finite and at least 0")
        box_weights = given if one else np.repeat(given, [len(part) for part in parts])
        columns = [_cells_as_points(part) for part in parts]
        log_wh, counts, radius, variance = (np.concatenate(column) for column in zip(*columns, strict=True))
        total = counts * box_weights
        if not total.sum() > 0:
            raise ValueError("no box of positive weight")
        kept = total > 0
        return cls(log_wh[kept], total[kept] / total.sum(), radius[kept], variance[kept])._joined(log_wh[kept])

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def shapes(self) -> Float64[ndarray, "n 2"]:
        """(width, height) of the points in pixels."""
        return np.exp(self.log_wh)

    def coarsened(self, cells_per_octave: int) -> ShapePoints:
        """Points in one square cell of the plane joined into one, at their mean."""
        return self._joined(np.floor(self.log_wh * (cells_per_octave / np.log(2))))

    def _joined(self, keys: Float64[ndarray, "n 2"]) -> ShapePoints:
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
        return ShapePoints(mean, total, radius, np.add.reduceat(weights * variance, starts) / total)


def iou_table(shapes: Float64[ndarray, "a 2"], boxes: Float64[ndarray, "n 2"]) -> Float64[ndarray, "a n"]:
    """IoU of each shape with each box when they share a centre.

    >>> iou_table(np.array([[10.0, 10.0]]), np.array([[10.0, 10.0], [20.0, 5.0]])).round(3)
    array([[1.   , 0.333]])
    """
    widths, heights = boxes.T.copy()
    overlap = np.minimum(shapes[:, :1], widths)
    overlap *= np.minimum(shapes[:, 1:], heights)
    union = (shapes[:, :1] * shapes[:, 1:] + widths * heights) - overlap
    return np.divide(overlap, union, out=overlap)


def _cells_as_points(
    histogram: ShapeHistogram,
) -> tuple[Float64[ndarray, "n 2"], Float64[ndarray, " n"], Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Positions, counts, radii and variances. Values in [0, 1] of mean m have a variance of at most m (1 - m)."""
    width = np.log(2) / histogram.cells_per_octave
    log_wh = np.log(histogram.shapes)
    mean = log_wh / width - histogram.cells
    several = histogram.counts > 1  # a single box is where its cell says it is
    radius = np.where(several, np.maximum(mean, 1 - mean).sum(axis=1) * width, 0.0)
    variance = np.where(several, (mean * (1 - mean)).clip(min=0).sum(axis=1) * width**2, 0.0)
    return log_wh, histogram.counts.astype(np.float64), radius, variance
