"""Anchors for pyramid levels, fitted on the grid: shapes, their levels, and the proof."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import SIZE_IN_STRIDES, AnchorSet, Proof, shapes_on_levels
from detect.anchors.head_cost import HeadSize, level_costs
from detect.errors import FitError
from detect.fitting.candidates import Candidates, Limits
from detect.fitting.gains import Boxes
from detect.fitting.search import Proved, prove_solution, search

PENALTY = 0.01  # mean utility that a further shape on every level must add
USUAL_RATIOS = (1.0, 0.5, 2.0)  # height / width
SAME = 1e-4  # nepers between two shapes that count as one


@dataclass(frozen=True)
class GridFit(Proved):
    """Anchors, their score on the grid, and the proof; made by :func:`fit_on_grid`."""

    anchors: AnchorSet
    score: float
    """The mean over boxes of the utility of the best anchor of the grid."""
    cost: float
    """Cost of all shapes, in units of the score."""
    proof: Proof | None
    """Upper bound on score - cost for all shapes within the limits."""
    start_score: float | None = None
    """Score - cost of the start, if one was given."""

    @property
    def num_per_level(self) -> list[int]:
        """Shapes on each level with anchors."""
        return [len(level.shapes) for level in self.anchors.levels]


def fit_on_grid(
    boxes: Boxes,
    *,
    per_level: int | Sequence[int] | None = None,
    num_anchors: int | None = None,
    costs: Sequence[float] | None = None,
    start: AnchorSet | None = None,
    certify: float | None = 0.02,
    rounds: int = 5,
    draft: int | None = None,
) -> GridFit:
    """The best shapes on levels that the search finds, proved to be close to the best.

    Args:
        boxes: the boxes to fit to, see :func:`detect.fitting.any_position.boxes_on_grid`.
        per_level: number of shapes on each level, or one number for all; exact without costs.
        num_anchors: instead, the number of shapes on all levels together.
        costs: cost of a shape on each level, in units of the score; the numbers are then maxima. See :func:`shape_costs`.
        start: anchors within the limits, on strides of the boxes, to which the result is not inferior.
        certify: gap at which the proof ends, apart from the error of a histogram. None proves nothing and is faster.
        rounds: maximum number of rounds of the proof.
        draft: without a proof, choose shapes on at most this many boxes, spread over all sizes, and polish them on all.

    Raises:
        FitError: no anchor overlaps any box, none is worth its cost, or the start exceeds the limits.
        ValueError: not one of ``per_level`` and ``num_anchors`` is given, or a number or cost is out of range.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> from detect.fitting.any_position import AnyPosition
    >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[12.0, 12.0], [60.0, 60.0]])), (4, 16))
    >>> fit = fit_on_grid(cells, per_level=1, certify=None)
    >>> [(level.name, [round(width) for width, _ in level.shapes]) for level in fit.anchors.levels], round(fit.score, 3)
    ([('P2', [12]), ('P4', [61])], 0.753)
    """
    limits = Limits.of(len(boxes.strides), per_level, num_anchors, costs)
    if certify is not None and not certify >= 0:
        raise ValueError(f"need certify >= 0, got {certify=}")
    given = [] if start is None else [_start_of(boxes, start, limits)]
    solution = search(boxes, limits, given, draft=draft if certify is None else None)
    fits = [anchors_of(boxes, each.shapes, each.levels) for each in (solution.chosen, *given)]
    if per_level is not None and not limits.priced:
        fits = [_completed(boxes, each, limits.counts) for each in fits]
    anchors = max(
        fits, key=lambda each: _candidates_of(boxes, each).value(limits)
    )  # a start, if only rounding moved it
    rounded = replace(solution, chosen=_candidates_of(boxes, anchors))
    score, cost = float(rounded.chosen.best.sum()), float(limits.penalties(rounded.chosen.levels).sum())
    if not score > cost:
        raise FitError(_why_nothing(boxes, limits, score))
    proof = prove_solution(boxes, rounded, limits, score=score - cost, certify=certify, rounds=rounds)
    return GridFit(anchors, score, cost, proof, given[0].value(limits) if given else None)


def shape_costs(
    canvas_wh: Int64[ndarray, "b 2"] | Mapping[tuple[int, int], int],
    strides: Sequence[int],
    head: HeadSize | None = None,
    *,
    penalty: float = PENALTY,
) -> tuple[float, ...]:
    """The cost of a shape on each level: ``penalty``, shared among the levels in proportion to the head's operations.

    The operations and anchors that a shape adds are both in proportion to a level's cells.

    >>> shape_costs(np.array([[64, 64]]), (8, 16, 32), penalty=0.021)
    (0.016, 0.004, 0.001)
    """
    one = AnchorSet.of([[(1.0, 1.0)]] * len(strides), strides=strides)
    cells = [cost.anchors for cost in level_costs(canvas_wh, one, head or HeadSize(1))]
    return tuple(penalty * each / sum(cells) for each in cells)


def score_on_grid(boxes: Boxes, anchors: AnchorSet) -> float:
    """The mean over boxes of the utility of the best anchor of the grid; each level's stride is one of ``boxes.strides``."""
    return float(_candidates_of(boxes, anchors).best.sum())


def anchors_of(boxes: Boxes, shapes: Float64[ndarray, "k 2"], levels: Int64[ndarray, " k"]) -> AnchorSet:
    """Shapes as a set of anchors, by area on each level; levels without shapes are left out."""
    order = np.lexsort((shapes[:, 0], shapes.prod(axis=1)))
    fields = {"center_offset": boxes.center_offset, "name": "fitted"}
    return shapes_on_levels(shapes[order], levels[order], boxes.strides, **fields)


def usual_shapes(stride: int, count: int) -> Float64[ndarray, "count 2"]:
    """Sizes within an octave from four strides on, each in three ratios (Lin et al. 2017, section 4).

    >>> usual_shapes(8, 3).round(1).tolist()
    [[32.0, 32.0], [45.3, 22.6], [22.6, 45.3]]
    """
    steps = math.ceil(count / len(USUAL_RATIOS))
    sizes = SIZE_IN_STRIDES * stride * 2 ** (np.arange(steps) / max(steps, 1))
    shapes = [(size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in USUAL_RATIOS]
    return np.array(shapes).reshape(-1, 2)[:count]


def _completed(boxes: Boxes, anchors: AnchorSet, counts: Sequence[int]) -> AnchorSet:
    """The exact number of different shapes on every level: those that are the best for a box, then usual ones."""
    chosen = _candidates_of(boxes, anchors)
    used = np.unique(chosen.utility.argmax(axis=0)[chosen.best > 0])
    shapes, levels = [chosen.shapes[used]], [chosen.levels[used]]
    for level, count in enumerate(counts):
        own = chosen.shapes[used[chosen.levels[used] == level]]
        usual = usual_shapes(boxes.strides[level], count)
        new = (np.abs(np.log(usual[:, None] / own)).max(axis=2) > SAME).all(axis=1)
        shapes.append(usual[new][: count - len(own)])
        levels.append(np.full(len(shapes[-1]), level))
    return anchors_of(boxes, np.concatenate(shapes), np.concatenate(levels))


def _candidates_of(boxes: Boxes, anchors: AnchorSet) -> Candidates:
    levels = [boxes.strides.index(level.stride) for level in anchors.levels for _ in level.shapes]
    shapes = np.array([shape for level in anchors.levels for shape in level.shapes], float).reshape(-1, 2)
    return Candidates.of(boxes, shapes, np.array(levels, np.int64))


def _start_of(boxes: Boxes, start: AnchorSet, limits: Limits) -> Candidates:
    chosen = _candidates_of(boxes, start)
    numbers = np.bincount(np.array(limits.group_of_level)[chosen.levels], minlength=len(limits.counts)).tolist()
    if any(number > most for number, most in zip(numbers, limits.counts, strict=True)):
        told = [", ".join(map(str, each)) for each in (numbers, limits.counts)]
        raise FitError(f"the start {start.name} has {told[0]} shapes, more than the {told[1]} to be fitted")
    return chosen


def _why_nothing(boxes: Boxes, limits: Limits, score: float) -> str:
    width, height = boxes.extents[:, boxes.extents.prod(axis=0).argmax()].tolist()
    strides = ", ".join(map(str, boxes.strides))
    what = "is worth its cost for" if limits.priced else "reaches"
    return (
        f"no anchor on strides {strides} {what} any box (mean utility {score:.2g}; the largest box is "
        f"{width:.3g} x {height:.3g} px after the resize): take a larger input or finer levels"
    )
