"""The utility of a shape on a pyramid level to boxes at any position: the mean over all positions, in closed form.

Along an axis, a box of extent w and an anchor of extent W whose centres lie u apart overlap by

    x(u) = min(w, W, (w + W) / 2 - u),  at least 0:  a plateau of min(w, W) up to u = |w - W| / 2, then a ramp of slope -1,

and u is uniform from 0 to half a stride, which leaves out the borders of the image. With S the sum of both areas, IoU is
x y / (S - x y). Over plateaus it is constant, over a plateau P and a ramp its integral is a logarithm, and over two ramps
a dilogarithm, since

    d2/dxdy Li2(x y / S) = 1 / (S - x y).

IoU reaches t where x y >= S t / (1 + t): the share of positions is an area under a hyperbola.

**A square of shapes** is bounded by overlaps at its upper corner over the areas at its lower one; and, for boxes no smaller
than the stride, where both slopes p of :mod:`detect.fitting.gains` lie from 0 to 1 at every position, by overlaps at the
centre with areas times exp(-2 max(q, 1 - q) t - t**2 / 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import spence

from detect.anchors.fit_boxes import FEW_PLACED, FitBoxes
from detect.anchors.grid_convention import Convention, as_convention
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances
from detect.fitting.gains import Boxes, Pair, PerBox, PerShape, Shapes, Table, levels_by_size
from detect.fitting.objective import Objective
from detect.fitting.own_positions import OwnPositions

MAX_CELLS = 2000  # of a histogram; finer ones are joined


@dataclass(frozen=True, eq=False, kw_only=True)
class AnyPosition(Boxes):
    """Cells of a histogram, whose boxes may lie anywhere against the grid; made by :meth:`of`."""

    @classmethod
    def of(
        cls,
        histogram: ShapeHistogram | Sequence[ShapeHistogram],
        strides: Sequence[int],
        *,
        objective: str | Objective = "iou",
        weights: Sequence[float] | None = None,
        convention: str | Convention = "exact",
        max_strides: float | None = None,
    ) -> AnyPosition:
        """The cells of a histogram on levels of these strides; each cell's boxes all have its mean shape.

        With several histograms, ``weights`` are those of a box in each.

        A mean over positions of IoU changes by no more than \\|d ln w\\| + \\|d ln h\\|, as IoU itself does: the histogram's
        error bound holds. Where ``max_strides`` may cut a cell in two, the whole cell counts as error.

        Raises:
            FitError: there are no boxes, or the objective does not parse.
            ValueError: strides do not rise.
        """
        parts = [histogram] if isinstance(histogram, ShapeHistogram) else list(histogram)
        extents = np.concatenate([part.shapes.T for part in parts], axis=1)
        cell = 2 ** (1 / min(part.cells_per_octave for part in parts))
        served, larger, smaller = (
            levels_by_size(each, strides, max_strides) for each in (extents, extents * cell, extents / cell)
        )
        parsed = Objective.parse(objective, on_grid=True)
        factors = [1.0] * len(parts) if weights is None else weights
        totals = np.concatenate([part.counts * factor for part, factor in zip(parts, factors, strict=True)])
        shares = totals / totals.sum()
        error = parsed.iou_share * max(part.iou_error_bound for part in parts)
        return cls(
            extents=extents,
            weights=shares,
            served=served,
            strides=tuple(strides),
            center_offset=as_convention(convention).center_offset,
            objective=parsed,
            error=error + float(shares[(larger != smaller).any(axis=0)].sum()),
        )

    def utilities(self, level: int, shapes: Shapes) -> Table:
        """Utility of each shape on a level to each cell, in the mean over positions.

        A box and an anchor of 16 pixels on a stride of 16 overlap by 8 to 16 pixels along each axis.

        >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[16.0, 16.0]])), (16, 32))
        >>> cells.utilities(0, np.array([[16.0, 16.0], [20.0, 20.0]])).round(4)
        array([[0.4086],
               [0.4148]])
        """
        return self.highest_utilities(level, shapes, shapes)

    def highest_utilities(self, level: int, low: Shapes, high: Shapes) -> Table:
        areas = self.extents.prod(axis=0) + low.prod(axis=1)[:, None]
        overlaps = overlaps_of(self.extents, high, self.strides[level])
        return mean_utility(*overlaps, areas, self.objective) * self.served[level]

    def log_range(self, level: int) -> tuple[Pair, Pair]:
        return np.log(self.smallest_wh), np.log(self.extents.max(axis=1) + self.strides[level])

    def bound_squares(self, level: int, duals: PerBox, centers: Shapes, half: Pair) -> PerShape:
        stride, shapes = self.strides[level], np.exp(centers)
        own, others = self.extents.prod(axis=0), shapes.prod(axis=1)[:, None]
        of_area = others / (own + others)
        shrunk = np.exp(-half.sum() * np.maximum(of_area, 1 - of_area) - (half**2).sum() / 8)
        overlaps = overlaps_of(self.extents, shapes, stride)
        by_slope = mean_utility(*overlaps, (own + others) * shrunk, self.objective)
        smooth = self.extents.min(axis=0) >= stride
        by_corners = self.highest_utilities(level, np.exp(centers - half), np.exp(centers + half))
        highest = np.where(smooth, np.minimum(by_slope, by_corners), by_corners)
        upper: PerShape = np.maximum(self.weights * highest - duals, 0).sum(axis=1)
        return upper


def boxes_on_grid(
    instances: ResizedInstances | FitBoxes,
    strides: Sequence[int],
    *,
    objective: str | Objective = "iou",
    weights: PerBox | None = None,
    convention: str | Convention = "exact",
    max_strides: float | None = None,
    few_boxes: int = FEW_PLACED,
) -> OwnPositions | AnyPosition:
    """The instances at their own positions if there are at most ``few_boxes``, else their shapes at any position.

    The other arguments are those of :meth:`OwnPositions.of`; at any position the strides' mode makes no difference.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), "none")
    >>> boxes_on_grid(instances, (4, 8, 16)).far.shape[2] == len(instances)
    True
    """
    how: dict[str, Any] = {"objective": objective, "convention": convention, "max_strides": max_strides}
    boxes = FitBoxes.of(instances, weights)
    if boxes.placed is not None and boxes.num_boxes <= few_boxes:
        return OwnPositions.of(boxes.placed, strides, weights=boxes.weights, **how)
    parts, factors = [boxes.every.histogram], [1.0]
    if boxes.weighted:
        counted, factors = boxes.weighted_parts
        parts = [each.histogram for each in counted]
    few = _few_cells(parts)
    cells = AnyPosition.of(few, strides, weights=factors, **how)
    error = max(_error_of_joining(part, joined) for part, joined in zip(parts, few, strict=True))
    worst = max(joined.iou_error_bound for joined in few)  # replaced by the smaller error of the joined cells
    return replace(cells, error=cells.error + cells.objective.iou_share * (error - worst))


@dataclass(frozen=True, eq=False)
class Overlap:
    """The overlap of two intervals along an axis, in pixels, when their centres lie from 0 to half a stride apart."""

    highest: Float64[ndarray, "*s"]
    """On the plateau."""
    lowest: Float64[ndarray, "*s"]
    """At half a stride."""
    plateau: Float64[ndarray, "*s"]
    """Share of positions on the plateau."""
    half: float
    """Half a stride, in pixels."""

    @classmethod
    def of(cls, extents: Float64[ndarray, "*n"], others: Float64[ndarray, "*a"], stride: int) -> Overlap:
        half = stride / 2
        highest = np.minimum(extents, others)
        lowest = np.clip((extents + others) / 2 - half, 0, highest)
        return cls(highest, lowest, np.minimum(np.abs(extents - others) / 2, half) / half, half)

    @property
    def ramp(self) -> Float64[ndarray, "*s"]:
        return self.highest - self.lowest


def overlaps_of(extents: Float64[ndarray, "2 n"], shapes: Shapes, stride: int) -> tuple[Overlap, Overlap]:
    """Overlaps along both axes of each box with each shape."""
    return Overlap.of(extents[0], shapes[:, :1], stride), Overlap.of(extents[1], shapes[:, 1:], stride)


def mean_utility(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"], objective: Objective) -> Float64[ndarray, "*s"]:
    """The mean utility over positions, for overlaps along both axes and sums of both areas."""
    result = np.zeros(np.broadcast_shapes(x.highest.shape, y.highest.shape, areas.shape))
    if objective.recall_share < 1:
        result += objective.iou_share * mean_iou(x, y, areas)
    if objective.recall_share > 0:
        least = areas * (objective.reaches / (1 + objective.reaches))
        result += objective.recall_share * share_above(x, y, least)
    return result


def mean_iou(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The mean of x y / (areas - x y), in closed form."""
    flat = x.highest * y.highest
    total = x.plateau * y.plateau * (flat / (areas - flat))
    for one, other in ((x, y), (y, x)):
        high, low = one.highest * other.highest, one.highest * other.lowest
        ramp = areas / one.highest * np.log((areas - low) / (areas - high)) - other.ramp
        total += one.plateau * ramp / other.half
    # the dilogarithm Li2(z) is spence(1 - z)
    corner = spence(1 - flat / areas) + spence(1 - x.lowest * y.lowest / areas)
    corner -= spence(1 - x.lowest * y.highest / areas) + spence(1 - x.highest * y.lowest / areas)
    return total + (areas * corner - x.ramp * y.ramp) / (x.half * y.half)


def share_above(x: Overlap, y: Overlap, least: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The share of positions at which x y >= least, in closed form."""
    total = x.plateau * y.plateau * (x.highest * y.highest >= least)
    for one, other in ((x, y), (y, x)):
        reached = other.highest - np.clip(least / one.highest, other.lowest, other.highest)
        total += one.plateau * reached / other.half
    # on two ramps: for x from a on some y >= least / x reach it, from b on all
    a = np.clip(least / y.highest, x.lowest, x.highest)
    b = np.clip(np.divide(least, y.lowest, out=np.full_like(a, np.inf), where=y.lowest > 0), a, x.highest)
    some = y.highest * (b - a) - least * np.log(b / np.maximum(a, 1e-300))
    return total + (some + y.ramp * (x.highest - b)) / (x.half * y.half)


def _few_cells(histograms: Sequence[ShapeHistogram]) -> list[ShapeHistogram]:
    """Neighbouring cells joined until at most ``MAX_CELLS`` are left."""
    joined, cells_per_octave = list(histograms), histograms[0].cells_per_octave
    while sum(map(len, joined)) > MAX_CELLS and cells_per_octave % 2 == 0:
        cells_per_octave //= 2
        joined = [each.coarsened(cells_per_octave) for each in histograms]
    return joined


def _error_of_joining(fine: ShapeHistogram, joined: ShapeHistogram) -> float:
    """Largest difference of the mean IoU over joined cells from that over the boxes, from the known shifts of means."""
    factor = fine.cells_per_octave // joined.cells_per_octave
    row = np.unique(fine.cells // factor, axis=0, return_inverse=True)[1].reshape(-1)
    moved = np.abs(np.log(fine.shapes / joined.shapes[row])).sum(axis=1)
    known = fine.iou_error_bound + float((moved * fine.counts).sum()) / max(fine.num_boxes, 1)
    return min(known, joined.iou_error_bound)
