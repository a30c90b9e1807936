"""The utility of a shape on a pyramid level to boxes at their own positions, and bounds of it over squares of shapes.

**A square of shapes.** Let r = x y / (A + W H), overlaps over areas, and X = ln W. The slope of ln x(X) is 1 where the
anchor lies within the box, W / 2x where one end sticks out, 0 where both do; it drops from each to the next, and within
the second its derivative is at most 1/4. -ln(A + W H) is concave in X + Y, with slope -q = -W H / (A + W H). So from the
centre of a square with half side t

    ln r <= ln r at the centre + (p_x - q) dX + (p_y - q) dY + t**2 / 4        (p: the slopes of the overlaps).

IoU = r / (1 - r) and the utility above a dual are convex in ln r, so the chord over the square's range lies above them.
That leaves one plane for each box; summed, the slopes of boxes on either side cancel, and the error falls with the
square's area. Where the largest overlaps over the smallest area give a tighter bound, it is used as a constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.fit_boxes import PlacedBoxes
from detect.anchors.grid_convention import Convention, as_convention
from detect.anchors.grid_iou import distance_to_grid, overlap_at
from detect.anchors.instances import ResizedInstances
from detect.fitting.gains import Boxes, Pair, PerBox, PerShape, Shapes, Table, levels_by_size
from detect.fitting.objective import Objective

FLAT = 1e6  # an upper bound on IoU of this much or more says nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnPositions(Boxes):
    """Boxes at their own positions; made by :meth:`of`."""

    far: Float64[ndarray, "l 2 n"]
    """Distance in pixels to the nearest centre of each level, along x and y."""

    @classmethod
    def of(
        cls,
        instances: ResizedInstances | PlacedBoxes,
        strides: Sequence[int],
        *,
        objective: str | Objective = "iou",
        weights: PerBox | None = None,
        convention: str | Convention = "exact",
        max_strides: float | None = None,
    ) -> OwnPositions:
        """The instances of a dataset on levels of these strides.

        ``strides`` are in pixels, from fine to coarse. Instances of weight 0 are left out. Corners are not rounded, whatever
        the ``convention``. For ``max_strides`` see :mod:`detect.fitting.gains`.

        Raises:
            FitError: there are no boxes, or the objective does not parse.
            ValueError: negative weights, strides that do not rise, an unknown convention, or a limit that is not positive.
        """
        how, corners = as_convention(convention), instances.boxes.T
        extents, centers = corners[2:] - corners[:2], (corners[:2] + corners[2:]) / 2
        served = levels_by_size(extents, strides, max_strides)
        axes = list(zip(centers, instances.canvas_wh.T, strict=True))
        far = np.array([[distance_to_grid(*axis, stride, how) for axis in axes] for stride in strides])
        shares = _shares(len(instances), weights)
        order = np.lexsort((shares, *far.reshape(-1, len(shares)), *extents))  # so that the data's order changes no sum
        order = order[shares[order] > 0]
        return cls(
            extents=extents[:, order],
            far=far[:, :, order],
            weights=shares[order],
            served=served[:, order],
            strides=tuple(strides),
            center_offset=how.center_offset,
            objective=Objective.parse(objective, on_grid=True),
        )

    def _columns(self, rows: Int64[ndarray, " m"]) -> dict[str, Any]:
        return super()._columns(rows) | {"far": self.far[:, :, rows]}

    def utilities(self, level: int, shapes: Shapes) -> Table:
        """Utility of the best of all anchors of each shape on a level, to each box.

        >>> from detect.data import read_coco
        >>> dataset = read_coco({
        ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 32]}],
        ... })
        >>> boxes = OwnPositions.of(ResizedInstances.of(dataset, "none"), (16, 64))
        >>> boxes.utilities(0, np.array([[32.0, 32.0], [48.0, 48.0]])).round(4)
        array([[0.3913],
               [0.4444]])
        """
        return self.objective.of_iou(self._similarity(level, shapes)) * self.served[level]

    def highest_utilities(self, level: int, low: Shapes, high: Shapes) -> Table:
        return self.objective.of_iou(self._highest_similarity(level, low, high)) * self.served[level]

    def log_range(self, level: int) -> tuple[Pair, Pair]:
        return np.log(self.smallest_wh), np.log((self.extents + 2 * self.far[level]).max(axis=1))

    def bound_squares(self, level: int, duals: PerBox, centers: Shapes, half: Pair) -> PerShape:
        shapes = np.exp(centers)
        ratio, slopes = self._tangents(level, shapes)
        spread = np.abs(slopes[0]) * half[0] + np.abs(slopes[1]) * half[1]
        corner = self._highest_similarity(level, shapes * np.exp(-half), shapes * np.exp(half))
        bend = np.exp(self._curvature * (half**2).sum())
        with np.errstate(over="ignore", invalid="ignore"):
            high = self._similarity_of(ratio * (bend * np.exp(spread)))
        flat = ~(high < FLAT)  # also where there is no overlap at the centre
        above_corner = ~(high < corner)
        low = self._similarity_of(ratio * bend * np.exp(-np.minimum(spread, 100.0)))
        top, bottom = self._reduced_between(duals, np.where(flat, corner, high), low)
        most = self._reduced_at(corner, duals)
        middle, turn = (top + bottom) / 2, (top - bottom) / (2 * np.maximum(spread, 1e-300))
        bounds = []
        for constant in (flat | (most <= middle), above_corner):  # which is tighter depends on how far slopes cancel
            kept = np.where(constant, 0.0, turn)
            tilts = (half[axis] * np.abs((kept * slopes[axis]).sum(axis=1)) for axis in (0, 1))
            bounds.append(np.where(constant, most, middle).sum(axis=1) + sum(tilts))
        return np.minimum(*bounds)

    _curvature = 1 / 8  # bounds the term of second order of ln r, over the square of a half side

    def _tangents(self, level: int, shapes: Shapes) -> tuple[Table, list[Table]]:
        """The ratios r at shapes, and the slopes of ln r in ln w and in ln h."""
        area = shapes.prod(axis=1)[:, None]
        areas = self.extents.prod(axis=0) + area
        overlaps = [self._overlap(level, axis, shapes) for axis in (0, 1)]
        slopes = [self._slope(axis, shapes, overlaps[axis]) - area / areas for axis in (0, 1)]
        return overlaps[0] * overlaps[1] / areas, slopes

    @staticmethod
    def _similarity_of(ratio: Table) -> Table:
        return ratio / np.maximum(1 - ratio, 1e-300)

    def _slope(self, axis: int, shapes: Shapes, overlap: Table) -> Table:
        """The slope of an overlap's logarithm in the logarithm of the shape's extent."""
        sides = shapes[:, axis : axis + 1]
        rising = np.where(overlap == sides, 1.0, sides / (2 * np.maximum(overlap, 1e-300)))
        return np.where(overlap == self.extents[axis], 0.0, rising)

    def _reduced_between(self, duals: PerBox, high: Table, low: Table) -> tuple[Table, Table]:
        """Reduced utilities at two IoUs, where the lower one too reaches the threshold if the higher one does."""
        reached = high >= self._threshold
        return self._reduced(high, reached, duals), self._reduced(low, reached, duals)

    @property
    def _threshold(self) -> float | PerBox:
        return self.objective.reaches

    def _reduced_at(self, iou: Float64[ndarray, "*s n"], duals: PerBox) -> Float64[ndarray, "*s n"]:
        return self._reduced(iou, iou >= self._threshold, duals)

    def _reduced(
        self, iou: Float64[ndarray, "*s n"], reached: Bool[ndarray, "*s n"], duals: PerBox
    ) -> Float64[ndarray, "*s n"]:
        return np.maximum(self.weights * self.objective.blend(iou, reached) - duals, 0)

    def _similarity(self, level: int, shapes: Shapes) -> Table:
        """IoU, or what takes its place in the objective."""
        both = self._overlap(level, 0, shapes)
        both *= self._overlap(level, 1, shapes)
        union = self.extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
        union -= both
        return np.divide(both, union, out=both)

    def _highest_similarity(self, level: int, low: Shapes, high: Shapes) -> Table:
        """An upper bound for all shapes between two: overlaps of the larger over areas of the smaller."""
        both = self._overlap(level, 0, high) * self._overlap(level, 1, high)
        return both / (self.extents.prod(axis=0) + low.prod(axis=1)[:, None] - both)

    def _overlap(self, level: int, axis: int, shapes: Shapes) -> Table:
        return overlap_at(self.extents[axis], self.far[level, axis], shapes[:, axis : axis + 1])


def _shares(count: int, weights: PerBox | None) -> PerBox:
    given = np.ones(count) if weights is None else weights
    if len(given) != count or not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise ValueError(f"need a finite weight from 0 for each of {count} boxes, not all 0")
    return given / math.fsum(given)  # in any order
