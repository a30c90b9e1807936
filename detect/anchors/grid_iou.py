"""The best IoU of boxes with all anchors of a grid, exactly, in one evaluation for each level and shape.

Anchors of one shape share their centres with the cells' points, rounded or not. Overlap separates by axis and only shrinks
with the distance of centres, so along each axis the nearest column (row) that the level has is the best one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorLevel, AnchorSet
from detect.ops.box_arrays import row_blocks


def grid_iou_by_level(
    boxes: Float64[ndarray, "n 4"],
    canvas_wh: Int64[ndarray, "n 2"],
    anchors: AnchorSet,
    *,
    strides: str = "exact",
    rounded: bool = False,
) -> Float64[ndarray, "n l"]:
    """The best IoU of each box with any anchor of each level.

    It equals the best over all boxes of ``AnchorGenerator.generate``, which are not made.

    A level of stride s has ceil(canvas / s) cells along an axis: what every halving with padding leaves, of odd sizes too.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the network's input.
        canvas_wh: width and height of the padded input that each box is in.
        anchors: shapes, strides, and where in its cell an anchor lies.
        strides: ``"exact"``, ``"floor"`` or ``"ratio"``, see :class:`detect.anchors.generator.Convention`.
        rounded: corners are whole pixels, see :class:`detect.anchors.generator.AnchorGenerator`.

    Raises:
        ValueError: ``strides`` is none of these.

    A box of 32 pixels midway between four anchors of its size, 8 pixels from each: 24 * 24 / (2 * 32 * 32 - 24 * 24).

    >>> anchors = AnchorSet.of([[(32, 32)], [(64, 64)]], strides=[16, 32])
    >>> grid_iou_by_level(np.array([[0.0, 0.0, 32.0, 32.0]]), np.array([[64, 64]]), anchors).round(4)
    array([[0.3913, 0.25  ]])
    """
    _check_strides(strides)
    best = np.zeros((len(anchors.levels), len(boxes)))
    for rows in row_blocks(len(boxes)):
        x0, y0, x1, y1 = np.ascontiguousarray(boxes[rows].T)
        for number, level in enumerate(anchors.levels):
            far = [
                distance_to_grid((low + high) / 2, canvas, level.stride, strides, anchors.center_offset)
                for low, high, canvas in ((x0, x1, canvas_wh[rows, 0]), (y0, y1, canvas_wh[rows, 1]))
            ]
            best[number, rows] = _best_iou(x1 - x0, y1 - y0, far[0], far[1], _extents(level, rounded))
    return best.T


def best_grid_anchors(
    boxes: Float64[ndarray, "n 4"],
    canvas_wh: Int64[ndarray, "n 2"],
    anchors: AnchorSet,
    *,
    strides: str = "exact",
    rounded: bool = False,
) -> Float64[ndarray, "n 4"]:
    """The anchor (x0, y0, x1, y1) of the grid that overlaps each box most: on the finest of equal levels, the first shape.

    For the arguments see :func:`grid_iou_by_level`.

    >>> anchors = AnchorSet.of([[(16, 16)], [(64, 64)]], strides=[16, 32])
    >>> best_grid_anchors(np.array([[20.0, 0.0, 30.0, 12.0]]), np.array([[64, 64]]), anchors)
    array([[16.,  0., 32., 16.]])
    """
    best, found = np.full(len(boxes), -1.0), np.zeros((len(boxes), 4))
    middle, (width, height) = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
    for level in anchors.levels:
        axes = zip(middle, canvas_wh.T, strict=True)
        centers = np.stack([_nearest_center(*axis, level.stride, strides, anchors.center_offset) for axis in axes])
        far_x, far_y = np.abs(centers - middle)
        for shape in _extents(level, rounded):
            iou = _best_iou(width, height, far_x, far_y, shape[None])
            better = iou > best
            best[better] = iou[better]
            found[better] = np.concatenate([centers.T - shape / 2, centers.T + shape / 2], axis=1)[better]
    return found


def cells_of(canvas: Int64[ndarray, "*n"], stride: int) -> Int64[ndarray, "*n"]:
    """Cells of a level along an axis: the last one may reach over the edge.

    >>> cells_of(np.array([640, 100]), 64)
    array([10,  2])
    """
    return -(-canvas // stride)


def distance_to_grid(
    centers: Float64[ndarray, " n"], canvas: Int64[ndarray, " n"], stride: int, strides: str, center_offset: float
) -> Float64[ndarray, " n"]:
    """How far each box's centre is, along one axis, from the nearest centre of a level's anchors.

    Args:
        centers: of boxes along the axis, in pixels.
        canvas: extent along the axis of the padded input that each box is in.
        stride: of the level, in pixels.
        strides: as in :func:`grid_iou_by_level`.
        center_offset: where in its cell an anchor lies, from 0 to 1.

    Anchors at 8, 24, 40, 56; beyond the last of them there is no nearer one.

    >>> distance_to_grid(np.array([30.0, 70.0]), np.array([64, 64]), 16, "exact", 0.5)
    array([ 6., 14.])
    """
    return np.abs(centers - _nearest_center(centers, canvas, stride, strides, center_offset))


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


def _extents(level: AnchorLevel, rounded: bool) -> Float64[ndarray, "k 2"]:
    shapes = np.array(level.shapes, float).reshape(-1, 2)
    if rounded:  # each corner, from the centre, in single precision: as the grid's
        shapes = 2.0 * np.rint(shapes.astype(np.float32) / 2).astype(float)
    return shapes


def _best_iou(
    widths: Float64[ndarray, " n"],
    heights: Float64[ndarray, " n"],
    far_x: Float64[ndarray, " n"],
    far_y: Float64[ndarray, " n"],
    shapes: Float64[ndarray, "k 2"],
) -> Float64[ndarray, " n"]:
    areas = widths * heights
    best = np.zeros(len(areas))
    for width, height in shapes.tolist():
        intersection = overlap_at(widths, far_x, width) * overlap_at(heights, far_y, height)
        np.maximum(best, intersection / (areas + width * height - intersection), out=best)
    return best


def _nearest_center(
    centers: Float64[ndarray, " n"], canvas: Int64[ndarray, " n"], stride: int, strides: str, center_offset: float
) -> Float64[ndarray, " n"]:
    _check_strides(strides)
    cells = cells_of(canvas, stride)
    step = {"exact": float(stride), "ratio": canvas / cells, "floor": (canvas // cells).astype(float)}[strides]
    nearest = np.clip(np.rint(centers / step - center_offset), 0, cells - 1)
    return (nearest + center_offset) * step


def _check_strides(strides: str) -> None:
    if strides not in {"exact", "floor", "ratio"}:
        raise ValueError(f"strides is 'exact', 'floor' or 'ratio', got {strides!r}")
