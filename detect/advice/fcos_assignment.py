"""The cells that learn each object by FCOS's rule, which looks at no prediction (Tian et al. 2019, section 3.2).

A cell is a candidate for an object if its centre lies inside the box and near the centre of the box, and if the farthest
side is within the regression range of the level. Of several objects the one of the smallest area gets the cell. So an object
without a cell is never learned, whatever is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.advice.level_cells import LevelCells, Regions, blocks_of_images, box_regions
from detect.catalog.matching import FcosRanges

ROUNDING_PX = 1e-6  # centres on the limit of a range are looked at, and compared exactly


def fcos_positives(
    boxes: Float64[ndarray, "n 4"],
    image_rows: Int64[ndarray, " n"],
    *,
    canvas_wh: Int64[ndarray, "b 2"],
    strides: Sequence[int],
    rule: FcosRanges,
) -> Int64[ndarray, " n"]:
    """The number of cells that learn each object, 0 for one that no cell learns.

    >>> boxes = np.array([[0.0, 0, 16, 16], [2, 2, 14, 14], [5, 5, 7, 7]])  # the second hides the first
    >>> rule = FcosRanges(radius=1.5)
    >>> fcos_positives(boxes, np.zeros(3, int), canvas_wh=np.array([[64, 64]]), strides=[8, 16, 32, 64, 128], rule=rule)
    array([0, 4, 0])

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the network's input.
        image_rows: the image of each object.
        canvas_wh: (width, height) of the network's input for each image.
        strides: of the levels, in pixels.
        rule: with one range for each level.
    """
    grid, rank = LevelCells(canvas_wh, tuple(strides), rule.origin), _by_area(boxes, rule.area_step)
    most_cells = np.full(len(boxes), _most_cells(strides, rule))
    positives = np.zeros(len(boxes), np.int64)
    for rows in blocks_of_images(np.argsort(image_rows, kind="stable"), most_cells, image_rows):
        pairs = grid.pairs(_regions(boxes[rows], strides, rule), image_rows[rows])
        own = rows[pairs.rows]
        x, y = np.maximum(pairs.centers - boxes[own, :2], boxes[own, 2:] - pairs.centers).T
        farthest = np.maximum(x, y)  # ten times as fast as along the last axis
        low, high = np.array(rule.ranges)[pairs.levels].T
        in_range = (low < farthest) & (farthest < high) if rule.is_open else (low <= farthest) & (farthest <= high)
        places, cells = pairs.rows[in_range], pairs.cells[in_range]
        order = np.argsort(cells * len(boxes) + rank[own[in_range]])
        is_first = np.diff(cells[order], prepend=-1) != 0
        positives[rows] = np.bincount(places[order][is_first], minlength=len(rows))
    return positives


def _most_cells(strides: Sequence[int], rule: FcosRanges) -> int:
    """A bound on the cells of an object on all levels but the last, which is coarse, and on that as far as the radius."""
    reach = [(rule.radius or np.inf) * stride for stride in strides]
    widths = [2 * min(high, far) / stride for (_, high), far, stride in zip(rule.ranges, reach, strides, strict=True)]
    return int(sum((width + 1) ** 2 for width in widths if np.isfinite(width)))


def _regions(boxes: Float64[ndarray, "n 4"], strides: Sequence[int], rule: FcosRanges) -> Regions:
    """The part of each box, on each level, that is near its centre and within the range of both far sides."""
    regions = box_regions(boxes, len(strides)).copy()
    too_small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None] < np.array(rule.ranges)[:, 0]
    regions[too_small] = np.nan
    reach = np.array(rule.ranges)[:, 1:] + ROUNDING_PX
    regions[..., :2] = np.maximum(regions[..., :2], boxes[:, None, 2:] - reach)
    regions[..., 2:] = np.minimum(regions[..., 2:], boxes[:, None, :2] + reach)
    if rule.radius is not None:
        middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
        reach = rule.radius * np.array(strides, float)[:, None]
        regions[..., :2] = np.maximum(regions[..., :2], middle - reach)
        regions[..., 2:] = np.minimum(regions[..., 2:], middle + reach)
    return regions


def _by_area(boxes: Float64[ndarray, "n 4"], step: float) -> Int64[ndarray, " n"]:
    """The place of each object from the smallest area to the largest; of equal ones the first comes first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    areas = np.rint(areas / step) if step else areas
    rank = np.empty(len(boxes), np.int64)
    rank[np.argsort(areas, kind="stable")] = np.arange(len(boxes))
    return rank
