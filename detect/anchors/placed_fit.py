"""Shapes and levels together: the anchors that cover boxes best as they lie on the grid, and how close to the best they are.

Each candidate is a shape on a level, and what a box has from it is :mod:`detect.anchors.placed_gain`'s; the rest is a
facility location (:mod:`detect.anchors.facility`), with a number of shapes for each level or for all, and with what a
shape costs. Greed and swaps choose from a grid of shapes on every level; a polish moves each chosen shape in the
continuum, and swaps with shapes close to the chosen ones follow. Nothing is random, and the order of the boxes changes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.placed_choice import Candidates, Limits, choose_rows, swap_rows
from detect.anchors.placed_gain import PlacedGain
from detect.anchors.placed_proof import prove, relax

GRID_STEP = 1 / 9  # nepers between candidates
OPENED = (0.01, 0.05)  # shares of candidates that the relaxation opens so far are one more start each
FINE_STEP = 1 / 27  # between those around the chosen ones
FEW_BOXES = 100
MAX_TABLE = 2**22  # entries: candidates times boxes
SQUARE = np.array([(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3)], np.float64)
FIRST_STEP = 0.06  # nepers
SMALLEST_STEP = 5e-4
SMALLEST_GAIN = 1e-9
MAX_ROUNDS = 10
PRICE = 0.01  # what one more shape on every level must add to the mean gain


@dataclass(frozen=True)
class PlacedFit:
    """Anchors, what they reach as they are placed, and what no anchors can exceed; made by :func:`fit_placed`."""

    anchors: AnchorSet
    score: float
    """The mean over boxes of the gain from the best anchor of the grid."""
    cost: float
    """Of all shapes, in units of the score."""
    upper_bound: float | None
    """What score - cost is at most for any shapes in these numbers; None where no proof was asked for."""

    @property
    def gap(self) -> float | None:
        """How much better the best could be, relative to score - cost."""
        return None if self.upper_bound is None else self.upper_bound / (self.score - self.cost) - 1

    @property
    def num_per_level(self) -> list[int]:
        """Shapes on each level that has any."""
        return [len(level.shapes) for level in self.anchors.levels]


def fit_placed(
    boxes: PlacedGain,
    *,
    per_level: int | Sequence[int] | None = None,
    total: int | None = None,
    costs: Sequence[float] | None = None,
    certify: float | None = 0.02,
    rounds: int = 5,
) -> PlacedFit:
    """The best shapes on levels that greed, swaps and polish find, proved to be close to the best.

    Args:
        boxes: what they gain from a shape on a level, see :func:`detect.anchors.placed_gain.placed_gain`.
        per_level: number of shapes on each level, or one number for all.
        total: instead, the number of shapes on all levels; how many a level gets is free.
        costs: of a shape on each level, in units of the score, see :func:`shape_costs`. The numbers are then upper limits.
        certify: stop proving when the gap is this small, what a histogram's error adds apart, which no round lessens; None
            proves nothing and is faster.
        rounds: of the proof, at most.

    Raises:
        ValueError: not one of ``per_level`` and ``total``, or a number or cost out of its range.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> from detect.anchors.placed_gain import AnyPosition
    >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[12.0, 12.0], [60.0, 60.0]])), (4, 16))
    >>> fit = fit_placed(cells, per_level=1, certify=None)
    >>> [(level.name, [round(width) for width, _ in level.shapes]) for level in fit.anchors.levels], round(fit.score, 3)
    ([('P2', [12]), ('P4', [61])], 0.753)
    """
    limits = Limits.of(len(boxes.strides), per_level, total, costs)
    if certify is not None and not certify >= 0:
        raise ValueError(f"need certify >= 0, got {certify=}")
    grid = grid_candidates(boxes)
    opened = relax(grid, limits)
    starts = [None, *(np.flatnonzero(opened > share) for share in OPENED)]
    fits = [_improved(boxes, grid.take(choose_rows(grid, limits, among)), limits) for among in starts]
    chosen = max(fits, key=lambda fit: _value(fit, limits))
    anchors = anchors_of(boxes, chosen.shapes, chosen.levels)
    rounded = _candidates_of(boxes, anchors)
    score, cost = float(rounded.best.sum()), float(limits.prices(rounded.levels).sum())
    bound = None
    if certify is not None:
        bound = prove(boxes, rounded, grid, opened, limits, target=(score - cost) * (1 + certify), rounds=rounds)
    return PlacedFit(anchors, score, cost, bound)


def shape_costs(
    canvas_wh: Int64[ndarray, "b 2"], strides: Sequence[int], head: HeadSize | None = None, *, price: float = PRICE
) -> tuple[float, ...]:
    """What a shape costs on each level: ``price`` for one on every level, shared as the head's operations for it are.

    Operations and anchors of a further shape are both in proportion to a level's cells.

    >>> shape_costs(np.array([[64, 64]]), (8, 16, 32), price=0.021)
    (0.016, 0.004, 0.001)
    """
    one = AnchorSet.of([[(1.0, 1.0)]] * len(strides), strides=strides)
    cells = [cost.anchors for cost in level_costs(canvas_wh, one, head or HeadSize(1))]
    return tuple(price * each / sum(cells) for each in cells)


def placed_score(boxes: PlacedGain, anchors: AnchorSet) -> float:
    """The mean over boxes of the gain from the best anchor of the grid; the levels are some of those of the boxes."""
    return float(_candidates_of(boxes, anchors).best.sum())


def anchors_of(boxes: PlacedGain, shapes: Float64[ndarray, "k 2"], levels: Int64[ndarray, " k"]) -> AnchorSet:
    """Shapes as a set of anchors, by area on each level; levels that have none are left out."""
    order = np.lexsort((shapes[:, 0], shapes.prod(axis=1)))
    used = np.unique(levels).tolist()
    groups = [[(float(w), float(h)) for w, h in shapes[order][levels[order] == level]] for level in used]
    strides = [boxes.strides[level] for level in used]
    return AnchorSet.of(groups, strides=strides, center_offset=boxes.center_offset, name="fitted")


def grid_candidates(boxes: PlacedGain, step: float = GRID_STEP) -> Candidates:
    """Shapes around those of the boxes, on every level; on a coarser grid where their gains would take too much memory.

    Of few boxes, all shapes between the least and the largest width and height.
    """
    steps = np.unique(np.floor(np.log(boxes.extents.T) / step), axis=0)
    if len(boxes.weights) <= FEW_BOXES:
        widths, heights = (np.arange(column.min(), column.max() + 1) for column in steps.T)
        steps = np.stack(np.meshgrid(widths, heights, indexing="ij"), axis=-1).reshape(-1, 2)
    around = np.unique((steps[:, None] + [[0, 0], [0, 1], [1, 0], [1, 1]]).reshape(-1, 2), axis=0)
    num_levels = len(boxes.strides)
    if len(around) * num_levels * len(boxes.weights) > MAX_TABLE and step < 1:
        return grid_candidates(boxes, step * 1.25)
    shapes = np.exp((around + 0.5) * step)
    return Candidates.of(boxes, np.tile(shapes, (num_levels, 1)), np.repeat(np.arange(num_levels), len(shapes)))


def _improved(boxes: PlacedGain, chosen: Candidates, limits: Limits) -> Candidates:
    """Polish and swaps with close shapes in turn, as long as that gains."""
    value = -np.inf
    for _ in range(MAX_ROUNDS):
        chosen = _polished(boxes, chosen)
        before, value = value, _value(chosen, limits)
        if not value > before + SMALLEST_GAIN:
            break
        near = chosen + _neighbours(boxes, chosen)
        chosen = near.take(swap_rows(near, range(len(chosen)), limits))
    return chosen


def _neighbours(boxes: PlacedGain, chosen: Candidates) -> Candidates:
    """Shapes close to the chosen ones, on every level."""
    shapes = (chosen.shapes[:, None] * np.exp(FINE_STEP * SQUARE)).reshape(-1, 2)
    num_levels = len(boxes.strides)
    return Candidates.of(boxes, np.tile(shapes, (num_levels, 1)), np.repeat(np.arange(num_levels), len(shapes)))


def _polished(boxes: PlacedGain, chosen: Candidates) -> Candidates:
    """Each shape in turn, the others held, moved to the best of a window that shrinks onto it."""
    shapes, gains, step = chosen.shapes.copy(), chosen.gains.copy(), FIRST_STEP
    while step > SMALLEST_STEP:
        moved = False
        for row, level in enumerate(chosen.levels.tolist()):
            others = np.delete(gains, row, axis=0).max(axis=0, initial=0.0)
            places = shapes[row] * np.exp(step / 2 * SQUARE)
            offered = boxes.weights * boxes.gains(level, places)
            values = np.maximum(offered, others).sum(axis=1)
            best = int(values.argmax())
            if values[best] > float(np.maximum(gains[row], others).sum()) + SMALLEST_GAIN:
                shapes[row], gains[row], moved = places[best], offered[best], True
        step = step if moved else step / 2
    return Candidates(shapes, chosen.levels, gains)


def _value(chosen: Candidates, limits: Limits) -> float:
    return float(chosen.best.sum() - limits.prices(chosen.levels).sum())


def _candidates_of(boxes: PlacedGain, anchors: AnchorSet) -> Candidates:
    levels = [boxes.strides.index(level.stride) for level in anchors.levels for _ in level.shapes]
    shapes = np.array([shape for level in anchors.levels for shape in level.shapes], float).reshape(-1, 2)
    return Candidates.of(boxes, shapes, np.array(levels, np.int64))
