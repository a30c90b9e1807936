"""Improve shapes in the continuum: weighted medians, as in :mod:`detect.anchors.iou_kmeans`, whose results lie on the data's
kinks exactly; and one shape at a time, the others held, to the best place of a window that shrinks onto it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.iou_kmeans import LARGEST_STRETCH, STRETCH, UPDATES, Members
from detect.anchors.shape_gain import ShapeGain
from detect.anchors.shape_points import ShapePoints, iou_table
from detect.ops.box_arrays import best_shape_iou, shape_iou

FIRST_STEP = 0.12  # nepers
SECOND_STEP = 0.06
SMALLEST_STEP = 1e-3
WINDOW = np.array([(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3) if dx or dy], np.float64) / 2
HEAVIEST = 6  # widths, and heights, of boxes in a window, whose pairs are tried as well
SMALLEST_GAIN = 1e-9
MAX_UPDATES = 100


def polish_shapes(
    points: ShapePoints, shapes: Float64[ndarray, "k 2"], gain: ShapeGain, *, num_fixed: int = 0
) -> Float64[ndarray, "k 2"]:
    """Shapes that reach at least as much, the first ``num_fixed`` of them as they are.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> points = ShapePoints.of(ShapeHistogram.of(np.array([[10.0, 20.0], [11.0, 20.0], [12.0, 20.0]])))
    >>> polish_shapes(points, np.array([[14.0, 23.0]]), ShapeGain()).round(6)
    array([[11., 20.]])
    """
    shapes = settle_shapes(points, shapes, gain, num_fixed=num_fixed)
    move = _Moves(points, gain, num_fixed)
    step = FIRST_STEP
    while step > SMALLEST_STEP:
        shapes, gained = move(shapes, step)
        step = step if gained else step / 2
    return _to_medians(points, shapes, gain, num_fixed)


def settle_shapes(
    points: ShapePoints, shapes: Float64[ndarray, "k 2"], gain: ShapeGain, *, num_fixed: int = 0
) -> Float64[ndarray, "k 2"]:
    """The quick part of a polish: enough to compare starts."""
    if gain.recall_share == 0:
        return _to_medians(points, shapes, gain, num_fixed)
    move = _Moves(points, gain, num_fixed)
    for step in (FIRST_STEP, SECOND_STEP):
        shapes = move(shapes, step)[0]
    return shapes


def score_of(points: ShapePoints, shapes: Float64[ndarray, "k 2"], gain: ShapeGain) -> float:
    """The weighted average over points of what their best shape gives."""
    return float((points.weights * gain.of_iou(best_shape_iou(points.shapes, shapes)[0])).sum())


class _Moves:
    """One round over the shapes that are not fixed: each to the best place of its window, if that gains."""

    def __init__(self, points: ShapePoints, gain: ShapeGain, num_fixed: int) -> None:
        self.boxes, self.weights, self.gain, self.num_fixed = points.shapes, points.weights, gain, num_fixed

    def __call__(self, shapes: Float64[ndarray, "k 2"], step: float) -> tuple[Float64[ndarray, "k 2"], bool]:
        shapes, gained = shapes.copy(), False
        for row in range(self.num_fixed, len(shapes)):
            others = np.maximum(best_shape_iou(self.boxes, np.delete(shapes, row, axis=0))[0], 0)
            own = shape_iou(self.boxes, shapes[row])
            reach = np.flatnonzero(own * np.exp(2 * step) > others)  # no other can come to prefer it within the window
            boxes, weights, rest = self.boxes[reach], self.weights[reach], self.gain.of_iou(others[reach])
            places = np.concatenate([shapes[row, None], self._places(boxes, weights, shapes[row], step)])
            gains = np.maximum(self.gain.of_iou(iou_table(places, boxes)), rest)
            values = (weights * gains).sum(axis=1)
            best = int(np.argmax(values))
            if values[best] > values[0] + SMALLEST_GAIN:
                shapes[row], gained = places[best], True
        return shapes, gained

    def _places(
        self,
        boxes: Float64[ndarray, "n 2"],
        weights: Float64[ndarray, " n"],
        shape: Float64[ndarray, " 2"],
        step: float,
    ) -> Float64[ndarray, "m 2"]:
        """A grid over the window, and pairs of the heaviest widths and heights in it: the kinks of average IoU."""
        grid = shape * np.exp(step * WINDOW)
        if self.gain.recall_share == 1 or step < SECOND_STEP:
            return grid
        axes = [_heaviest(boxes[:, axis], weights, shape[axis], np.exp(step)) for axis in range(2)]
        return np.concatenate([np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2), grid])


def _heaviest(
    extents: Float64[ndarray, " n"], weights: Float64[ndarray, " n"], middle: float, factor: float
) -> Float64[ndarray, " m"]:
    """The extents within a factor of one that the most weight lies on, and that one."""
    near = np.abs(np.log(extents / middle)) <= np.log(factor)
    distinct, row = np.unique(extents[near], return_inverse=True)
    heaviest = np.argsort(-np.bincount(row, weights[near], len(distinct)), kind="stable")[:HEAVIEST]
    return np.append(distinct[heaviest], middle)


def _to_medians(
    points: ShapePoints, shapes: Float64[ndarray, "k 2"], gain: ShapeGain, num_fixed: int
) -> Float64[ndarray, "k 2"]:
    """Weighted-median updates, stretched as in k-means, as long as they gain; none where a shape is nobody's best."""
    if gain.recall_share == 1:
        return shapes
    members = Members(points.shapes, points.weights)
    best, trial, stretch, target = -np.inf, shapes, 1.0, shapes
    for _ in range(MAX_UPDATES):
        iou, labels = best_shape_iou(members.shapes, trial)
        score = float((points.weights * gain.of_iou(iou)).sum())
        if score > best + SMALLEST_GAIN:
            best, shapes = score, trial
            if not np.bincount(labels, minlength=len(shapes)).all():
                break
            updated = UPDATES["weighted_median"](members, labels, shapes)
            target = np.concatenate([shapes[:num_fixed], updated[num_fixed:]])
            stretch = min(stretch * STRETCH, LARGEST_STRETCH)
        elif stretch == 1.0:
            break
        else:
            stretch = 1.0
        trial = shapes * (target / shapes) ** stretch
    return shapes
