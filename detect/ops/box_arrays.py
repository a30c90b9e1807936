"""Box arithmetic in NumPy, so that fitting anchors loads no torch.

Boxes are (x0, y0, x1, y1) in continuous pixels unless a name says xywh; shapes are (width, height).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

Boxes = Float64[ndarray, "n 4"]

ROWS_AT_ONCE = 2**16  # columns of this length stay in the processor's cache and reuse its memory pages


def row_blocks(num_rows: int, at_once: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices that cover long columns in blocks of rows.

    >>> list(row_blocks(100_000))
    [slice(0, 65536, None), slice(65536, 100000, None)]
    """
    return (slice(start, min(start + at_once, num_rows)) for start in range(0, num_rows, at_once))


def count_values(values: Int64[ndarray, " n"]) -> dict[int, int]:
    """How often each value occurs, in rising order of the values.

    >>> count_values(np.array([7, 4, 7]))
    {4: 1, 7: 2}
    """
    lowest = int(values.min(initial=0))
    if int(values.max(initial=0)) - lowest > len(values):
        distinct, counts = np.unique(values, return_counts=True)
        return dict(zip(distinct.tolist(), counts.tolist(), strict=True))
    counts = np.bincount(values - lowest)  # many times as fast
    return {lowest + place: int(counts[place]) for place in np.flatnonzero(counts).tolist()}


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Convert (x, y, width, height) to two corners.

    >>> xywh_to_xyxy(np.array([[10.0, 20.0, 30.0, 40.0]]))
    array([[10., 20., 40., 60.]])
    """
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Convert two corners to (x, y, width, height).

    >>> xyxy_to_xywh(np.array([[10.0, 20.0, 40.0, 60.0]]))
    array([[10., 20., 30., 40.]])
    """
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_boxes(boxes: Boxes, image_wh: Float64[ndarray, "n 2"]) -> Boxes:
    """Clip each box to its own image; a box outside it becomes empty.

    >>> clip_boxes(np.array([[-5.0, 2.0, 8.0, 12.0]]), np.array([[10.0, 10.0]]))
    array([[ 0.,  2.,  8., 10.]])
    """
    return np.clip(boxes, 0.0, np.tile(image_wh, 2))


def check_corners(corners: Float64[ndarray, "n k"], name: str) -> None:
    """Fail at a box (x0, y0[, z0], x1, y1[, z1]) that is turned over or not finite; one without extent passes.

    >>> check_corners(np.array([[0.0, 0.0, 9.0, 9.0], [40.0, 20.0, 9.0, 9.0]]), "boxes of image 3")
    Traceback (most recent call last):
    ValueError: boxes of image 3: row 1 is [40.0, 20.0, 9.0, 9.0], need finite corners, the lower ones first
    """
    low, high = np.split(corners, 2, axis=1)
    wrong = ~(np.isfinite(corners).all(axis=1) & (low <= high).all(axis=1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{name}: row {row} is {corners[row].tolist()}, need finite corners, the lower ones first")


def shape_iou(shapes: Float64[ndarray, "n d"], shape: Float64[ndarray, " d"]) -> Float64[ndarray, " n"]:
    """IoU of each shape with another one when both share a centre. Shapes are (width, height), or have any other dimensions.

    1 - IoU is a metric on shapes: the Jaccard distance of boxes that share a corner.

    >>> shape_iou(np.array([[10.0, 10.0], [20.0, 5.0]]), np.array([10.0, 10.0]))
    array([1.        , 0.33333333])
    """
    columns = np.ascontiguousarray(shapes.T)
    return _iou_of_columns(columns, columns.prod(axis=0), shape)


def side_ratio(shapes: Float64[ndarray, "n 2"], shape: Float64[ndarray, " 2"]) -> Float64[ndarray, " n"]:
    """The smallest ratio of sides of each shape with another one: YOLOv5's measure, which compares it with 1 / anchor_t.

    >>> side_ratio(np.array([[10.0, 10.0], [20.0, 5.0]]), np.array([10.0, 20.0]))
    array([0.5 , 0.25])
    """
    ratios = shapes / shape
    return np.minimum(ratios, 1 / ratios).min(axis=1)


def best_shape_iou(
    shapes: Float64[ndarray, "n d"], others: Float64[ndarray, "a d"]
) -> tuple[Float64[ndarray, " n"], Int64[ndarray, " n"]]:
    """The best IoU of each shape with any of the others, and the index of that one (the first on ties), in memory O(n).

    >>> best_shape_iou(np.array([[10.0, 10.0], [20.0, 5.0]]), np.array([[10.0, 10.0], [16.0, 5.0]]))
    (array([1. , 0.8]), array([0, 1]))
    """
    best, which = np.full(len(shapes), -1.0), np.zeros(len(shapes), np.int64)
    for rows in row_blocks(len(shapes)):
        columns = np.ascontiguousarray(shapes[rows].T)  # a product over a short last axis is several times slower
        volumes = columns.prod(axis=0)
        for index, other in enumerate(others):
            iou = _iou_of_columns(columns, volumes, other)
            better = iou > best[rows]
            np.copyto(best[rows], iou, where=better)
            np.copyto(which[rows], index, where=better)
    return best, which


def best_side_ratio(shapes: Float64[ndarray, "n d"], others: Float64[ndarray, "a d"]) -> Float64[ndarray, " n"]:
    """The best side ratio of each shape with any of the others: the least ratio of two extents, the smaller over the larger.

    YOLOv5 and YOLOv7 match a box and an anchor whose side ratio is above 1 / 4.

    >>> best_side_ratio(np.array([[10.0, 10.0], [20.0, 5.0]]), np.array([[10.0, 8.0], [16.0, 40.0]]))
    array([0.8, 0.5])
    """
    best = np.zeros(len(shapes))
    for rows in row_blocks(len(shapes)):
        columns = np.ascontiguousarray(shapes[rows].T)
        for other in others:
            sides = [
                np.minimum(column, side) / np.maximum(column, side) for column, side in zip(columns, other, strict=True)
            ]
            np.maximum(best[rows], np.minimum.reduce(sides), out=best[rows])
    return best


def _iou_of_columns(
    columns: Float64[ndarray, "d n"], volumes: Float64[ndarray, " n"], shape: Float64[ndarray, " d"]
) -> Float64[ndarray, " n"]:
    intersection = np.minimum(columns[0], shape[0])
    for column, extent in zip(columns[1:], shape[1:], strict=True):
        intersection *= np.minimum(column, extent)
    union = volumes - intersection
    union += shape.prod()
    return np.divide(intersection, union, out=intersection)
