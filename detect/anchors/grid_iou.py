"""The best IoU of boxes with all anchors of a grid, exactly, with one evaluation for each level and shape.

The centres of one shape's anchors form a regular grid, with rounded corners or without. Intersection is a product over the
axes and falls with the distance between centres, so the nearest column and the nearest row of the level are the best ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorLevel, AnchorSet
from detect.anchors.grid_convention import Convention, as_convention, cell_step, num_cells
from detect.ops.box_arrays import row_blocks

PerBox = Float64[ndarray, " n"]


def grid_iou_by_level(
    boxes: Float64[ndarray, "n 4"],
    canvas_wh: Int64[ndarray, "n 2"],
    anchors: AnchorSet,
    *,
    convention: str | Convention = "exact",
) -> Float64[ndarray, "n l"]:
    """The best IoU of each box with any anchor of each level: the maximum over all boxes of ``AnchorGenerator.generate``.

    A level of stride s has ceil(canvas / s) cells along an axis, as repeated halving with padding leaves them.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the network's input.
        canvas_wh: (width, height) of the padded input of each box's image.
        anchors: shapes, strides and the centre's position in a cell.
        convention: stride mode and rounding of corners.

    Raises:
        ValueError: the convention is not known.

    A 32 pixel box midway between four anchors of its size, 8 pixels from each: 24 * 24 / (2 * 32 * 32 - 24 * 24).

    >>> anchors = AnchorSet.of([[(32, 32)], [(64, 64)]], strides=[16, 32])
    >>> grid_iou_by_level(np.array([[0.0, 0.0, 32.0, 32.0]]), np.array([[64, 64]]), anchors).round(4)
    array([[0.3913, 0.25  ]])
    """
    how = replace(as_convention(convention), center_offset=anchors.center_offset)
    best = np.zeros((len(anchors.levels), len(boxes)))
    for rows in row_blocks(len(boxes)):
        x0, y0, x1, y1 = np.ascontiguousarray(boxes[rows].T)
        for number, level in enumerate(anchors.levels):
            far_x = distance_to_grid((x0 + x1) / 2, canvas_wh[rows, 0], level.stride, how)
            far_y = distance_to_grid((y0 + y1) / 2, canvas_wh[rows, 1], level.stride, how)
            best[number, rows] = _best_iou(x1 - x0, y1 - y0, far_x, far_y, _grid_shapes(level, how))
    return best.T


def best_grid_anchors(
    boxes: Float64[ndarray, "n 4"],
    canvas_wh: Int64[ndarray, "n 2"],
    anchors: AnchorSet,
    *,
    convention: str | Convention = "exact",
) -> Float64[ndarray, "n 4"]:
    """The anchor (x0, y0, x1, y1) of the grid with the highest IoU with each box.

    Among equal anchors it is on the finest level, with the first shape. For the arguments see :func:`grid_iou_by_level`.

    >>> anchors = AnchorSet.of([[(16, 16)], [(64, 64)]], strides=[16, 32])
    >>> best_grid_anchors(np.array([[20.0, 0.0, 30.0, 12.0]]), np.array([[64, 64]]), anchors)
    array([[16.,  0., 32., 16.]])
    """
    how = replace(as_convention(convention), center_offset=anchors.center_offset)
    best, anchor = np.full(len(boxes), -1.0), np.zeros((len(boxes), 4))
    middle, (width, height) = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
    for level in anchors.levels:
        axes = zip(middle, canvas_wh.T, strict=True)
        centers = np.stack([_nearest_center(*axis, level.stride, how) for axis in axes])
        far_x, far_y = np.abs(centers - middle)
        for shape in _grid_shapes(level, how):
            iou = _best_iou(width, height, far_x, far_y, shape[None])
            better = iou > best
            best[better] = iou[better]
            anchor[better] = np.concatenate([centers.T - shape / 2, centers.T + shape / 2], axis=1)[better]
    return anchor


def distance_to_grid(centers: PerBox, canvas: Int64[ndarray, " n"], stride: int, convention: Convention) -> PerBox:
    """Distance in pixels along one axis from each box's centre to the nearest centre of a level's anchors.

    Args:
        centers: centres of boxes along the axis, in pixels.
        canvas: size of each box's padded input along the axis, in pixels.
        stride: stride of the level, in pixels.
        convention: ``stride_mode`` and ``center_offset`` of the anchors.

    The anchors' centres are 8, 24, 40 and 56; none lies beyond the last cell.

    >>> distance_to_grid(np.array([30.0, 70.0]), np.array([64, 64]), 16, Convention())
    array([ 6., 14.])
    """
    return np.abs(centers - _nearest_center(centers, canvas, stride, convention))


def overlap_at(
    extents: Float64[ndarray, "*n"], far: Float64[ndarray, "*n"], others: float | Float64[ndarray, "a 1"]
) -> Float64[ndarray, "*s"]:
    """Overlap along one axis of intervals whose centres lie ``far`` apart.

    >>> overlap_at(np.array([10.0, 10.0]), np.array([1.0, 9.0]), 6.0)  # -5 to 5 with -2 to 4, and with 6 to 12
    array([6., 0.])
    """
    overlap = others / 2 + (extents / 2 - far)
    np.minimum(overlap, extents, out=overlap)
    return np.clip(overlap, 0.0, others, out=overlap)


def _grid_shapes(level: AnchorLevel, convention: Convention) -> Float64[ndarray, "k 2"]:
    shapes = np.array(level.shapes, float).reshape(-1, 2)
    if convention.round_corners:  # each corner, relative to the centre, in single precision: as AnchorGenerator does
        shapes = 2.0 * np.rint(shapes.astype(np.float32) / 2).astype(float)
    return shapes


def _best_iou(widths: PerBox, heights: PerBox, far_x: PerBox, far_y: PerBox, shapes: Float64[ndarray, "k 2"]) -> PerBox:
    areas = widths * heights
    best = np.zeros(len(areas))
    for width, height in shapes.tolist():
        intersection = overlap_at(widths, far_x, width) * overlap_at(heights, far_y, height)
        np.maximum(best, intersection / (areas + width * height - intersection), out=best)
    return best


def _nearest_center(centers: PerBox, canvas: Int64[ndarray, " n"], stride: int, convention: Convention) -> PerBox:
    step, offset = cell_step(canvas, stride, convention.stride_mode), convention.center_offset
    nearest = np.clip(np.rint(centers / step - offset), 0, num_cells(canvas, stride) - 1)
    return (nearest + offset) * step
